"""A second Unix account, made for a test and removed after it; the test is skipped where none can be made."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_NUMBER = itertools.count()
_BOOT = (
    "import site, sys; [site.addsitedir(p) for p in sys.argv[1].split(':')]; sys.argv[1:2] = []; "
    "from rag_hpc.cli import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Account:
    """An account beside ours."""

    name: str
    uid: int
    gid: int

    def run(self, argv: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, with its groups and none of ours; `how` is subprocess.run's."""
        settings = {"capture_output": True, "text": True, "cwd": "/", "timeout": 120, "check": False, **how}
        clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **settings.pop("env", {})}
        groups = os.getgrouplist(self.name, self.gid)
        return subprocess.run(list(argv), user=self.uid, group=self.gid, extra_groups=groups, env=clean, **settings)

    def cli(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run `rag-hpc WORDS` as this account; skips the test where it may not enter a Python with our packages."""
        return self.run([*_python(self), *words], **how)


@functools.cache
def _python(account: Account) -> list[str]:
    """Return the start of a command line of ours that the account may run."""
    places = ":".join(path for path in sys.path if path.endswith("site-packages"))
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        command = [python, "-B", "-c", _BOOT, places]
        with contextlib.suppress(PermissionError, FileNotFoundError):
            if account.run([*command, "--version"]).returncode == 0:
                return command
    pytest.skip("a second account may enter no Python here that has our packages")


@contextlib.contextmanager
def second_account(group: str | None = None) -> Iterator[Account]:
    """Yield a new account, a member of `group` too, which is made when it is not there. Skips the test if not root."""
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("a second account needs root and useradd")
    name = f"rh{os.getpid()}x{next(_NUMBER)}"
    if group is not None:
        _call("groupadd", "--force", group)
    member = [] if group is None else ["--groups", group]
    _call("useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", *member, name)
    try:
        entry = pwd.getpwnam(name)
        yield Account(name, entry.pw_uid, entry.pw_gid)
    finally:
        _call("userdel", "--force", name)
        if group is not None:
            subprocess.run(["groupdel", group], capture_output=True, check=False)  # the last member's end takes it


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a folder that every account may enter and write to, as /tmp is: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="rag-hpc-open-"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
