"""The server of a job: ready with its first token, its owner's alone, gone with its owner however that ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatserver import fake_vllm, model_like
from generators import FISH, SLURM

from rag_hpc.config import check, compose
from rag_hpc.core.stage import output_config
from rag_hpc.errors import ClusterError, ConfigError, InputError, Interrupted, MissingDependency
from rag_hpc.generators import server
from rag_hpc.generators.config import GeneratorConfig, GeneratorName, VllmConfig
from rag_hpc.generators.server import PORTS_EACH, PortRange, Server
from rag_hpc.generators.vllm import NAME, VllmGenerator, command, environment, spread
from rag_hpc.models.folder import model_folder
from rag_hpc.schema import from_plain

ASKED = ("What is the default time limit?", [FISH, SLURM])
SUPPORT = Path(__file__).parents[2] / "support"
MODEL = SUPPORT  # for tests that need no more of it than that it is a folder


def config(python: str, **vllm: Any) -> GeneratorConfig:
    settings = {"name": "vllm", "model": str(MODEL), "vllm": {"python": python, **vllm}}
    return from_plain(GeneratorConfig, settings)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder of a path that is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="v-") as folder:
        yield Path(folder)


def processes(word: str) -> list[int]:
    """Return the processes whose command line, or whose parent's, has that word."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(entry.name)] = ((entry / "cmdline").read_bytes(), parent)
    own = {pid for pid, (line, _) in found.items() if word.encode() in line and pid != os.getpid()}
    return sorted(own | {pid for pid, (_, parent) in found.items() if parent in own})


def gone(word: str, within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while processes(word) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(word)


@pytest.mark.parametrize("listen", ["uds", "loopback"])
def test_it_is_ready_with_its_first_token_and_closed_to_others(listen: str, scratch: Path) -> None:
    python = fake_vllm(scratch, start_s=0.7)
    with contextlib.closing(VllmGenerator(config(python, listen=listen), lambda: None, scratch=scratch)) as generator:
        assert generator.start_s > 0.7
        assert generator.generate(*ASKED).text == "The default time limit is 240 minutes. Longer [2]."
        (folder,) = scratch.glob("vllm-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
        key = (folder / "key").read_text()
        lines = [(Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in processes(str(folder))]
        assert lines and not any(key.encode() in line for line in lines)
        if listen == "loopback":
            port = re.search(rb"--port\0(\d+)", b"".join(lines))
            assert port
            url = f"http://127.0.0.1:{int(port[1])}/v1/chat/completions"
            assert httpx.post(url, json={"messages": []}).status_code == 401
        else:
            assert stat.S_ISSOCK((folder / "http").stat().st_mode)
    assert gone(str(folder)) and not folder.exists()


def test_a_folder_here_that_has_the_served_name_is_no_model(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch / NAME).mkdir()
    monkeypatch.chdir(scratch)
    with contextlib.closing(
        VllmGenerator(config(fake_vllm(scratch, log=1)), lambda: None, scratch=scratch)
    ) as generator:
        generator.generate(*ASKED)
        assert f"asked for {NAME}\n" in next(scratch.glob("vllm-*/log")).read_text()


def test_one_that_cannot_start_or_takes_too_long_is_told_with_the_end_of_its_log(scratch: Path) -> None:
    for told, settings, words in (
        ({"fail": 1}, {}, r"ended with code 1 before it answered.*CUDA out of memory"),
        ({"refuses": 1}, {}, r"refuses to answer: HTTP 400: .*busy"),
        ({"start_s": 60}, {"start_timeout_s": 1.0}, r"did not answer within 1 s.*loading the model.*start_timeout_s"),
    ):
        with pytest.raises(ClusterError, match=re.compile(words, re.DOTALL)):
            VllmGenerator(config(fake_vllm(scratch, **told), **settings), lambda: None, scratch=scratch)
        assert gone(str(scratch)) and not list(scratch.glob("vllm-*"))


def test_a_stop_ends_the_start(scratch: Path) -> None:
    def check_stop() -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        VllmGenerator(config(fake_vllm(scratch, start_s=60)), check_stop, scratch=scratch)
    assert gone(str(scratch))


def test_one_that_dies_is_told_and_started_again_by_whoever_asks_next(scratch: Path) -> None:
    python = fake_vllm(scratch, dies_after=3, delay_s=0.1)  # the first of them is the first token
    with contextlib.closing(VllmGenerator(config(python), lambda: None, scratch=scratch)) as generator:
        assert generator.generate(*ASKED).found
        with pytest.raises(ClusterError, match=re.compile(r"ended while it was asked.*loading the model", re.DOTALL)):
            generator.generate(*ASKED)
        before = generator.start_s
        assert generator.generate(*ASKED).found and generator.start_s > before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_its_owner_and_all_its_group_are_killed(number: signal.Signals, scratch: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from rag_hpc.generators.config import GeneratorConfig; from rag_hpc.generators.vllm import VllmGenerator\n"
        "from rag_hpc.schema import from_plain\n"
        "settings = {'name': 'vllm', 'model': sys.argv[2], 'vllm': {'python': sys.argv[3]}}\n"
        "made = VllmGenerator(from_plain(GeneratorConfig, settings), lambda: None, None, Path(sys.argv[4]))\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    words = [str(SUPPORT), str(MODEL), fake_vllm(scratch), str(scratch)]
    python = [sys.executable, "-c", code]
    with subprocess.Popen([*python, *words], stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
        (folder,) = scratch.glob("vllm-*")
        assert len(processes(str(folder))) >= 3  # guard, server, the server's child
        segment = Path("/dev/shm") / (folder / "log").read_text().split("segment ")[1].split()[0]
        assert segment.exists()
        os.killpg(owner.pid, number)
        owner.wait(10)
    assert gone(str(folder)) and not segment.exists()


def test_signals_of_the_job_leave_it_running_until_its_owner_is_done(scratch: Path) -> None:
    with contextlib.closing(VllmGenerator(config(fake_vllm(scratch)), lambda: None, scratch=scratch)) as generator:
        (folder,) = scratch.glob("vllm-*")
        guard = next(pid for pid in processes(str(folder)) if b"guard" in Path(f"/proc/{pid}/cmdline").read_bytes())
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(guard, number)
        for pid in processes(str(folder)):  # as Slurm does to every process of a step
            os.kill(pid, signal.SIGUSR2)
        assert generator.generate(*ASKED).found


def test_eight_that_start_at_once_have_ports_of_their_own(scratch: Path) -> None:
    def start(number: int) -> tuple[int, str]:
        folder = scratch / str(number)
        folder.mkdir()
        generator = VllmGenerator(config(fake_vllm(folder, start_s=1), listen="loopback"), lambda: None, scratch=folder)
        with contextlib.closing(generator):
            text = generator.generate(*ASKED).text
            log = next(folder.glob("vllm-*/log")).read_text()
        return int(log.split("loading the model ")[1].split()[0]), text

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(start, range(8)))
    firsts = sorted(port for port, _ in found)
    assert all(b - a >= PORTS_EACH for a, b in zip(firsts, firsts[1:], strict=False))
    assert {text for _, text in found} == {"The default time limit is 240 minutes. Longer [2]."}


def test_ranges_of_ports_are_given_back_and_can_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "NUM_RANGES", 0)
    with pytest.raises(ClusterError, match="are taken by other servers"):
        PortRange()
    monkeypatch.undo()
    one, two = PortRange(), PortRange()
    assert two.first >= one.first + PORTS_EACH and one.first <= one.free_port() < one.first + PORTS_EACH
    one.close()
    with contextlib.closing(PortRange()) as again:
        assert again.first == one.first
    two.close()


def test_a_server_that_ignores_the_signal_is_killed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_S", 0.5)
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(99)  # stubborn",
    ]
    one = Server(stubborn, os.environ, scratch)
    one.wait_until(lambda: len(processes("# stubborn")) >= 2, 10, lambda: None)
    one.close()
    assert not one.is_alive() and not processes("# stubborn") and not scratch.exists()
    scratch.mkdir()


def test_command_and_environment_say_what_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    model = str(model_like(tmp_path / "model"))
    asked = replace(config("/v/python", max_model_len=2048, enforce_eager=True, args=["--max-num-seqs=4"]), model=model)
    ranks = asked.num_tensor_parallel(server.num_accelerators())
    said = " ".join(command(asked, ranks, tmp_path / "s", 0, tmp_path / "plain"))
    assert said.startswith("/v/python -P -m vllm.entrypoints.openai.api_server --model /")
    for words in (
        f"--uds {tmp_path}/s",
        "--tensor-parallel-size 4",
        "--shutdown-timeout 10",
        "--max-model-len 2048 --enforce-eager",
        "--gpu-memory-utilization 0.9",
    ):
        assert words in said
    assert "--chat-template" not in said and said.endswith(" --max-num-seqs=4") and "secret" not in said
    variables = environment(asked, ranks, "secret", 20_000, tmp_path)
    assert (variables["VLLM_API_KEY"], variables["VLLM_PORT"], variables["VLLM_HOST_IP"]) == (
        "secret",
        "20000",
        "127.0.0.1",
    )
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment(asked, 2, "secret", 20_000, tmp_path)["VLLM_CPU_KVCACHE_SPACE"] == "4"
    plain = from_plain(
        GeneratorConfig, {"name": "vllm", "model": str(model_like(tmp_path / "plain-model", chat=False))}
    )
    assert f"--chat-template {tmp_path}/plain" in " ".join(command(plain, 1, None, 8000, tmp_path / "plain"))


def test_ranks_on_a_cpu_share_what_was_granted() -> None:
    assert (spread(1, [0, 1]), spread(2, [0])) == ("", "0|0")
    if (os.cpu_count() or 1) >= 2:
        assert spread(2, [4, 5]) in ("4|5", "4|4")  # the latter where one CPU was granted


def test_what_would_fail_in_the_job_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    model = f"generator.model={model_folder('minilm')}"  # of an encoder, which nobody reads that far
    for overrides, error, words in (
        ([model], MissingDependency, r"has no vLLM.*rag-hpc\[serve\].*serve-cpu.*generator.vllm.python="),
        ([model, f"generator.vllm.python={sys.executable}"], MissingDependency, "has no vLLM"),
        ([model, f"generator.vllm.python={tmp_path}/none"], InputError, "cannot be run"),
        ([f"generator.model={tmp_path}"], InputError, "has no config.json; it needs .*safetensors"),
        (["generator.model=owner/name"], InputError, "owner/name does not exist.*hf download"),
    ):
        with pytest.raises(error, match=words):
            check(compose(["generator=vllm", *overrides]))
    check(compose(["generator=vllm", model, f"generator.vllm.python={fake_vllm(tmp_path)}"]))
    with pytest.raises(ConfigError, match=r"set generator\.model to"):
        compose(["generator=vllm", "generator.model=''"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"args": ["max-num-seqs=4"]}, "is no flag of the form --NAME"),
        ({"args": ["--api_key=x"]}, "--api-key is given by the job itself"),
        ({"args": ["--dtype=float32"]}, "set generator.vllm.dtype instead"),
        ({"dtype": "float8"}, "known: auto, float32"),
        ({"tensor_parallel_size": 65}, "between 0 and 64"),
        ({"kv_cache_gib": 0}, "between 1 and 4096"),
        ({"start_timeout_s": 0.0}, "at least 1|between 1 and"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_plain(VllmConfig, settings)


def test_where_and_how_fast_it_runs_is_no_part_of_what_it_says() -> None:
    one = config("/a/python", enforce_eager=True, listen="loopback", tensor_parallel_size=2)
    assert output_config(one) == output_config(config("/b/python")) and one.name is GeneratorName.vllm
    assert output_config(one) != output_config(config("/b/python", dtype="float32"))
