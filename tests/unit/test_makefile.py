"""What `make demo` says before it downloads, and where torch's CPU build comes from."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from terminal import on_terminal

ROOT = Path(__file__).parents[2]
VERSION = re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's folder whose python is ours, and whose pip installs into the folder `site` beside it."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")  # no other index or folder than the one that is named
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "venv"


def wheels(folder: Path, version: str) -> Path:
    """Return a folder that holds a wheel of torch with nothing in it."""
    folder.mkdir()
    info = f"torch-{version}.dist-info"
    files = {
        "torch.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\nRequires-Dist: not-downloaded\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        record = ""
        for name, text in files.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return folder


def make(*words: object) -> str:
    done = subprocess.run(["make", "-C", ROOT, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def torch(venv: Path, *words: object) -> str:
    return make(f"VENV={venv}", *words, venv / ".torch")


def test_torch_s_cpu_build_is_taken_from_the_folder_that_is_named(venv: Path, tmp_path: Path) -> None:
    folder = wheels(tmp_path / "wheels", f"{VERSION}+cpu")
    assert f"== torch=={VERSION}+cpu from {folder}\n" in torch(venv, f"TORCH_INDEX_URL={folder}", "GPU=")
    assert [path.name for path in (tmp_path / "site").glob("torch-*")] == [f"torch-{VERSION}+cpu.dist-info"]
    assert (venv / ".torch").exists()


def test_with_a_gpu_or_without_that_build_the_default_index_has_its_turn(venv: Path, tmp_path: Path) -> None:
    folder = wheels(tmp_path / "wheels", f"{VERSION}+cpu")
    said = torch(venv, f"TORCH_INDEX_URL={folder}", "GPU=/dev/nvidiactl")
    assert "a GPU is here (/dev/nvidiactl): torch comes from the default index" in said
    (venv / ".torch").unlink()
    said = torch(venv, f"TORCH_INDEX_URL={wheels(tmp_path / 'others', VERSION)}", "GPU=")
    assert f"has no torch=={VERSION}+cpu: torch comes from the default index, which is" in said
    (venv / ".torch").unlink()
    assert "torch" not in torch(venv).replace(str(venv), "") and not (tmp_path / "site").exists()


def test_an_index_is_asked_as_one(venv: Path) -> None:
    said = make(f"VENV={venv}", "-n", "TORCH_INDEX_URL=https://index.invalid/cpu", "GPU=", venv / ".torch")
    assert f"--no-deps --index-url https://index.invalid/cpu torch=={VERSION}+cpu" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["GPU="], "SIZE, most of it torch for GPUs\n   no GPU is here: make demo TORCH_INDEX_URL=https://"),
        (["GPU=/dev/nvidiactl"], "SIZE, most of it torch for GPUs\n"),
        (["GPU=", "TORCH_INDEX_URL=wheels"], "SIZE_CPU\n"),
    ],
)
def test_what_will_be_downloaded_is_said_before(venv: Path, words: list[str], said: str) -> None:
    sizes = dict(re.findall(r"^(SIZE\w*) := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    expected = re.sub(r"SIZE\w*", lambda name: sizes[name[0]], said)
    assert f"== packages will be downloaded: {expected}" in make(f"VENV={venv}", *words, "sizes")
    steps = make(f"VENV={venv}", "-n", *words, "demo")
    assert steps.index("packages will be downloaded") < steps.index("pip --disable-pip-version-check install")
    assert all(size in (ROOT / "README.md").read_text().replace("\n", " ") for size in sizes.values())


def test_a_terminal_sees_that_pip_is_at_work(venv: Path, tmp_path: Path) -> None:
    (venv / "bin" / "python").write_text("#!/bin/sh\nsleep 3\nexit ${CODE:-0}\n")
    command = ["make", "-C", str(ROOT), f"VENV={venv}", "TORCH_INDEX_URL=x", "GPU=", f"{venv}/.torch"]
    assert "from x\r\n.make" in on_terminal(command, tmp_path)
