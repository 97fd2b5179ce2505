"""Whose files a run's are: a stranger's, or what a stranger could have changed, is refused before it is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toystages
from accounts import Account, open_folder, second_account

from rag_hpc import worker
from rag_hpc.core import trust
from rag_hpc.core.ledger import Ledger, find_run, open_run
from rag_hpc.core.plan import plan_path
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.launchers import gate

PARTS = (".", "run.json", "submissions", "submissions/0001", "submissions/0001/submission.json", "{plan}", "{stage}")


@pytest.fixture
def run(toys: dict[str, str], tmp_path: Path) -> Ledger:
    """Return the ledger of a run with a finished stage."""
    ledger = toystages.new_ledger(tmp_path / "runs" / "mine")
    toystages.run_inline(ledger.submit(toystages.toy_request("mine", ("toy.source",))))
    return ledger


def part(run: Ledger, name: str) -> Path:
    stage = next(run.run_dir.glob("toy.source-*"))
    return run.run_dir / name.format(plan="submissions/0001/toy.source.plan.json", stage=stage.name)


@pytest.mark.parametrize("name", [*PARTS, "{stage}/manifest.json"])
def test_what_others_can_write_to_is_refused(run: Ledger, name: str) -> None:
    path = part(run, name)
    assert open_run(run.run_dir).submissions() == [1]
    for mode in (0o020, 0o002):
        before = path.stat().st_mode
        path.chmod(before | mode)
        with pytest.raises(ConfigError, match=f"{path}, of .*chmod -R go-w {run.run_dir}"):
            open_run(run.run_dir)
        with pytest.raises(ConfigError, match="chmod -R go-w"):
            find_run(run.run_dir.parent, None)
        path.chmod(before)


@pytest.mark.parametrize("name", [*PARTS, "{stage}/manifest.json"])
def test_what_another_account_made_is_refused_with_both_names(run: Ledger, stranger: Account, name: str) -> None:
    path = part(run, name)
    os.chown(path, stranger.uid, stranger.gid)
    with pytest.raises(ConfigError, match=rf"{path} belongs to {stranger.name} \(uid .*, not to you, root \(uid 0\)"):
        open_run(run.run_dir)


def test_a_link_of_another_account_is_refused_wherever_it_leads(
    run: Ledger, stranger: Account, shared_root: Path
) -> None:
    assert stranger.run(["ln", "-s", str(run.run_dir), str(shared_root / "theirs")]).returncode == 0
    (shared_root / "ours").symlink_to(run.run_dir)
    assert find_run(shared_root, "ours").run_dir == run.run_dir.resolve()
    with pytest.raises(ConfigError, match=f"theirs belongs to {stranger.name}"):
        find_run(shared_root, "theirs")


def test_runs_of_others_are_passed_over_where_no_run_is_named(
    run: Ledger, stranger: Account, tmp_path: Path, shared_root: Path
) -> None:
    shutil.copytree(run.run_dir, shared_root / "mine")
    shutil.copytree(run.run_dir, shared_root / "theirs")
    for path in (shared_root / "theirs", *(shared_root / "theirs").rglob("*")):
        os.chown(path, stranger.uid, stranger.gid)
    os.utime(shared_root / "mine" / "submissions", (1, 1))
    assert find_run(shared_root, None).name == "mine"
    with pytest.raises(ConfigError, match=r"known: mine$"):
        find_run(shared_root, "absent")
    shutil.rmtree(shared_root / "mine")
    with pytest.raises(InputError, match="no runs under"):
        find_run(shared_root, None)


def test_neither_a_worker_nor_a_gate_reads_what_another_account_put_in_the_place_of_its_run(
    run: Ledger, stranger: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_path(run.run_dir, 1, "toy.source")
    plan.write_text("not for us to read")
    os.chown(run.run_dir, stranger.uid, stranger.gid)
    for main, words in ((worker.main, [str(plan), "0"]), (gate.main, [str(run.run_dir), "1", "toy.source"])):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"belongs to {stranger.name}" in said and "Traceback" not in said


def test_a_folder_that_another_account_made_first_does_not_become_the_run(stranger: Account, shared_root: Path) -> None:
    assert stranger.run(["mkdir", "-m", "777", str(shared_root / "mine")]).returncode == 0
    with pytest.raises(ConfigError, match=f"belongs to {stranger.name}"):
        Ledger(shared_root / "mine").create({})
    assert list((shared_root / "mine").iterdir()) == []


@pytest.fixture
def theirs(toys: dict[str, str]) -> Iterator[tuple[Path, Account, Callable[[int], None]]]:
    """Yield the folder of a finished run that its owner shares, its owner, and how to take another group."""
    with open_folder() as root, second_account() as owner:
        ledger = Ledger(root / "theirs")
        ledger.create({}, share=True)
        with trust.private_files(ledger.run_dir):
            toystages.run_inline(ledger.submit(toystages.toy_request("theirs", ("toy.source",))))

        def give(gid: int) -> None:
            for path in (ledger.run_dir, *ledger.run_dir.rglob("*")):
                mode = path.stat().st_mode
                os.chown(path, owner.uid, gid)
                path.chmod(mode)  # chown takes setgid away

        give(os.getegid())
        yield ledger.run_dir, owner, give


def test_a_shared_run_is_read_by_members_of_its_group_who_say_so(
    theirs: tuple[Path, Account, Callable[[int], None]], stranger: Account
) -> None:
    run_dir, owner, give = theirs
    assert open_run(run_dir, shared=True).submissions() == [1]
    assert find_run(run_dir.parent, None, shared=True).name == "theirs"
    with pytest.raises(ConfigError, match=f"belongs to {owner.name}.*add cluster.share=group"):
        open_run(run_dir)
    (run_dir / "run.json").chmod(0o660)
    with pytest.raises(ConfigError, match="can be written by its group"):
        open_run(run_dir, shared=True)
    (run_dir / "run.json").chmod(0o640)
    os.chown(run_dir / "run.json", stranger.uid, os.getegid())  # of a third account
    with pytest.raises(ConfigError, match=f"belongs to {stranger.name}"):
        open_run(run_dir, shared=True)
    os.chown(run_dir / "run.json", owner.uid, os.getegid())
    give(owner.gid)  # no group of ours
    with pytest.raises(ConfigError, match=f"belongs to {owner.name}"):
        open_run(run_dir, shared=True)


def test_all_of_a_shared_run_is_the_groups_to_read_and_nobody_elses_to_write(
    theirs: tuple[Path, Account, Callable[[int], None]], run: Ledger
) -> None:
    run_dir = theirs[0]
    paths = [path for path in (run_dir, *run_dir.rglob("*")) if path.name not in (toystages.NUMBERS, toystages.NOTE)]
    modes = {(path.is_dir(), path.stat().st_mode & 0o7777) for path in paths}
    assert modes == {(True, 0o2750), (False, 0o640)}
    assert trust.umask_of(run.run_dir) == 0o077 and trust.umask_of(run_dir) == 0o027


def test_a_draft_that_goes_while_it_is_looked_at_is_no_trouble(run: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.lstat

    def gone(path: str) -> os.stat_result:
        if str(path).endswith("submission.json"):
            raise FileNotFoundError(2, "No such file", path)
        return real(path)

    monkeypatch.setattr(os, "lstat", gone)
    assert open_run(run.run_dir).submissions() == [1]
