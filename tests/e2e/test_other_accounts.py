"""Other accounts of a machine: what they leave in our way runs nothing as us, and what is ours they do not read."""

from __future__ import annotations

import grp
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from accounts import Account, second_account

from tests.e2e.conftest import SMALL, TEXT_STAGES, Cli, Copy

TRAP = "import pathlib; pathlib.Path({mark!r}).touch(); raise SystemExit('imported from the working folder')\n"
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """The overrides of a small run over texts."""
    words = [" ".join(f"word{(n * 31 + i * (n % 5 + 1)) % 211}" for i in range(120)) for n in range(12)]
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(words):
        (tmp_path / "texts" / f"doc{number:02d}.txt").write_text(f"Title {number}\n\n{text}.\n")
    return f"corpus.path={tmp_path / 'texts'}"


def test_a_folder_that_another_made_under_the_runs_name_runs_nothing_as_us(
    cli: Cli, texts: str, stranger: Account, shared_root: Path, tmp_path: Path
) -> None:
    """Its name follows from the settings, so anybody can be there first, in a root that all share."""
    mark = tmp_path / "mark"
    asked = ("corpus=files", texts, TEXT_STAGES, f"cluster.root={shared_root}", "run=mine")
    trap = TRAP.format(mark=str(mark)).replace("'", "'\\''")
    made = stranger.run(["sh", "-c", f"umask 0; mkdir mine && printf '{trap}' > mine/dataclasses.py"], cwd=shared_root)
    assert made.returncode == 0, made.stderr
    for words in (("run", *asked), ("plan", *asked), ("status", "run=mine", asked[3]), ("retry", "run=mine", asked[3])):
        done = cli(*words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"{shared_root}/mine belongs to {stranger.name}" in done.stderr and "not to you, root" in done.stderr
    assert [path.name for path in (shared_root / "mine").iterdir()] == ["dataclasses.py"] and not mark.exists()


def test_no_worker_imports_a_module_from_the_folder_of_its_run(cli: Cli, texts: str, tmp_path: Path) -> None:
    mark, here = tmp_path / "mark", tmp_path / "here"
    run_dir = here / "results" / "runs" / "mine"
    run_dir.mkdir(parents=True)
    for module in ("dataclasses", "numpy"):
        (run_dir / f"{module}.py").write_text(TRAP.format(mark=str(mark)))
    done = cli("run", "run=mine", "corpus=files", texts, TEXT_STAGES, cwd=here)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def test_a_run_of_another_account_is_not_retried_with_the_environment_that_it_brings(
    cli: Cli, copy: Copy, stranger: Account, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRAP.format(mark=str(tmp_path / "mark")))
    folder = Path(shutil.move(copy("gift", "evaluate"), shared_root / "gift"))
    path = folder / "submissions" / "0001" / "submission.json"
    value = {**json.loads(path.read_bytes()), "environment": {"PYTHONPATH": str(tmp_path)}}
    del value["seal"]  # its owner would make a new one
    path.write_text(json.dumps(value))
    done = cli("retry", "run=gift", f"cluster.root={shared_root}")
    assert done.returncode == 2 and "cluster.env: PYTHONPATH is none of the variables" in done.stderr, done.stderr
    for each in (folder, *folder.rglob("*")):
        os.chown(each, stranger.uid, stranger.gid)
    for verb in ("retry", "cancel", "clean", "why", "milestones"):
        done = cli(verb, "run=gift", f"cluster.root={shared_root}")
        assert done.returncode == 2 and f"belongs to {stranger.name}" in done.stderr, done.stderr
    assert not (tmp_path / "mark").exists()


def test_a_group_reads_what_one_of_it_shares_and_changes_nothing(
    cli: Cli, texts: str, stranger: Account, shared_root: Path
) -> None:
    with second_account(group="rh-readers") as owner, second_account(group="rh-readers") as reader:
        os.chown(shared_root, 0, grp.getgrnam("rh-readers").gr_gid)
        shared_root.chmod(0o3777)  # what is made in it is the group's
        where, share = f"cluster.root={shared_root}", "cluster.share=group"
        done = cli("run", "run=theirs", "corpus=files", texts, TEXT_STAGES, where, share)
        assert done.returncode == 0, done.stderr
        paths = [shared_root / "theirs", *(shared_root / "theirs").rglob("*")]
        for path in paths:
            mode = path.stat().st_mode
            assert mode & 0o027 == 0, path
            os.chown(path, owner.uid, -1)
            path.chmod(mode)
        before = {path: path.stat().st_mtime_ns for path in paths}
        for words in (
            ["status", "theirs"],
            ["why", "theirs"],
            ["logs", "clean", "run=theirs"],
            ["verify", "theirs", "--files"],
        ):
            done = reader.cli(*words, where, share)
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        refused = [reader.cli(verb, "run=theirs", where, share) for verb in ("retry", "cancel", "clean")]
        refused += [reader.cli("status", "run=theirs", where), stranger.cli("status", "run=theirs", where, share)]
        for done in refused:
            assert done.returncode == 2 and f"belongs to {owner.name}" in done.stderr, done.stderr
        assert before == {path: path.stat().st_mtime_ns for path in paths}


class Curious(BaseHTTPRequestHandler):
    """An endpoint that answers with the key it was sent, after another account has looked around."""

    stranger: Account
    root: Path
    seen: list[str]
    keys: set[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.add(self.headers["Authorization"])
        if not self.seen:
            look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; echo; echo ==; find . -mindepth 1 -readable"
            self.seen.append(self.stranger.run(["sh", "-c", look], cwd=self.root, errors="replace").stdout)
            text: Any = f"Invalid key {KEY}\\n{KEY[:9]}"
            status, body = 429, text.encode()
        else:
            choice = {"message": {"content": "The decorator lru_cache [1]."}, "finish_reason": KEY}
            status, body = 200, json.dumps({"choices": [choice], "id": KEY}).encode()
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("X-Echo", KEY)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def curious(stranger: Account, shared_root: Path) -> Iterator[tuple[str, type[Curious]]]:
    handler = type("Handler", (Curious,), {"stranger": stranger, "root": shared_root, "seen": [], "keys": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
        server.shutdown()
        thread.join()


def test_a_key_is_in_no_file_of_the_run_and_no_other_account_sees_it(
    cli: Cli,
    copy: Copy,
    corpus: Path,
    curious: tuple[str, type[Curious]],
    shared_root: Path,
    tmp_path: Path,
) -> None:
    url, handler = curious
    folder = Path(shutil.move(copy("keyed", "generate", "evaluate"), shared_root / "keyed"))
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "key").chmod(0o600)
    generator = ("generator=openai", f"generator.base_url={url}", "generator.model=m")
    done = cli(
        *("run", "run=keyed", "workers=2", "corpus=beir", f"corpus.path={corpus}", *SMALL, *generator),
        *(f"cluster.root={shared_root}", f"generator.api_key_file={tmp_path / 'key'}"),
        env={"RAG_HPC_LOG": "DEBUG", "UNRELATED_API_KEY": KEY},
    )
    assert done.returncode == 0, done.stderr
    assert handler.keys == {f"Bearer {KEY}"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50 and [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in done.stdout + done.stderr
    processes, _, readable = handler.seen[0].rpartition("==\n")
    assert f"{folder}/submissions" in processes and KEY not in processes  # workers are seen, not what they know
    assert readable == ""
