from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path

import pytest
import races

from rag_hpc.core.fs import canonical_json
from rag_hpc.core.ledger import Ledger, Request, Submission, find_run, runs_root
from rag_hpc.core.policy import Policy
from rag_hpc.errors import ConfigError, InputError

REQUEST = Request(
    run="run",
    number=0,
    stages=["crawl"],
    settings={"crawl": {"path": "caf\udce9"}},
    workers=3,
    cluster={"launcher": "local"},
    environment={"A": "1"},
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "runs" / "run")
    found.create({"corpus": {"name": "pydoc"}})
    return found


def test_submissions_are_numbered_and_come_back_equal(ledger: Ledger) -> None:
    first, second = ledger.submit(REQUEST), ledger.submit(dataclasses.replace(REQUEST, workers=5))
    assert (first.number, second.number, ledger.submissions()) == (1, 2, [1, 2])
    assert ledger.submission() == Submission(ledger, ledger.request()) == second
    assert ledger.request(1) == first.request and first.request.submitted_unix > 1.7e9


def test_a_submission_of_the_version_before_is_read(ledger: Ledger) -> None:
    """Until 0.1 the fields of the policy stood beside the others."""
    submission = ledger.submit(dataclasses.replace(REQUEST, policy=Policy(max_attempts=7, backup_after_s=2.5)))
    path = submission.folder / "submission.json"
    values = json.loads(path.read_bytes())
    del values["seal"]
    values |= values.pop("policy")
    assert values["max_attempts"] == 7
    path.write_bytes(canonical_json(values))
    assert ledger.request(1) == submission.request


def test_racing_submissions_get_numbers_of_their_own(tmp_path: Path) -> None:
    Ledger(tmp_path / "run").create({})
    numbers_x, numbers_y, numbers_z = races.race("submissions", tmp_path, 20, tags="xyz")
    assert sorted([*numbers_x, *numbers_y, *numbers_z]) == list(range(1, 61))
    ledger = Ledger(tmp_path / "run")
    assert ledger.submissions() == list(range(1, 61))
    for tag, numbers in (("x", numbers_x), ("y", numbers_y), ("z", numbers_z)):
        assert [(ledger.request(n).stages, ledger.request(n).workers, ledger.request(n).number) for n in numbers] == [
            ([tag], i, n) for i, n in enumerate(numbers)
        ]


def test_submission_that_died_before_its_file_leaves_its_number_free(ledger: Ledger) -> None:
    ledger.folder(1).mkdir(parents=True)
    assert ledger.submissions() == []
    assert ledger.submit(REQUEST).number == 1


def test_numbers_go_on_beyond_four_digits(ledger: Ledger) -> None:
    ledger.folder(9999).mkdir(parents=True)
    (ledger.folder(9999) / "submission.json").write_text("{}")
    assert ledger.submit(REQUEST).number == 10_000
    assert ledger.submissions()[-1] == 10_000


def test_first_config_stays(ledger: Ledger) -> None:
    ledger.create({"corpus": {"name": "other"}})
    assert ledger.config() == {"corpus": {"name": "pydoc"}}
    assert ledger.name == "run"


def test_run_folder_is_private(ledger: Ledger) -> None:
    ledger.submit(REQUEST)
    for path in (ledger.run_dir, ledger.folder(1), ledger.run_dir / "run.json", ledger.folder(1) / "submission.json"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_submitted_and_unknown_numbers_are_input_errors(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing was submitted yet; give the rag-hpc run command again"):
        ledger.request()
    ledger.submit(REQUEST)
    with pytest.raises(InputError, match="no submission 7; known: 1"):
        ledger.request(7)
    with pytest.raises(InputError, match="no run of this name"):
        Ledger(tmp_path / "absent").config()


def test_jobs_are_listed_in_order_over_submissions(ledger: Ledger) -> None:
    ledger.submit(REQUEST)
    ledger.submit(REQUEST)
    ledger.submission(2).add_job(stage="clean", kind="gate", ids=["7"])
    ledger.submission(1).add_job(stage="crawl", kind="workers", ids=["5", "6"])
    assert [(job["submission"], job["stage"], job["ids"]) for job in ledger.jobs()] == [
        (1, "crawl", ["5", "6"]),
        (2, "clean", ["7"]),
    ]
    assert [job["kind"] for job in ledger.jobs(2)] == ["gate"]
    assert ledger.jobs(3) == []


def test_torn_line_of_a_killed_writer_hides_no_other_job(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.submit(REQUEST)
    path = ledger.folder(1) / "jobs.jsonl"
    ledger.submission(1).add_job(stage="crawl", kind="workers", ids=["5"])
    whole = path.read_bytes()
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:length])
        ledger.submission(1).add_job(stage="clean", kind="workers", ids=["6"])
        with caplog.at_level(logging.WARNING):
            assert [job["ids"] for job in ledger.jobs(1)] == [["5"], ["6"]]
    assert "did not finish" in caplog.text


def test_run_is_found_by_name_path_or_as_the_latest(ledger: Ledger, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    other = Ledger(root / "later")
    other.create({})
    ledger.submit(REQUEST)
    other.submit(REQUEST)
    os.utime(root / "run" / "submissions", (1, 1))
    assert find_run(root, None).name == "later"
    assert find_run(root, "run").run_dir == ledger.run_dir.resolve()
    assert find_run(Path("elsewhere"), str(root / "run")).name == "run"
    ledger.submission().plan_path("crawl").write_text("{}")
    assert find_run(root, None).name == "run"  # the other one never came as far as a plan


def test_unknown_run_lists_the_known_ones(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run 'rum' under .*; known: run"):
        find_run(tmp_path / "runs", "rum")
    with pytest.raises(InputError, match="start one: rag-hpc run"):
        find_run(tmp_path / "empty", None)
    with pytest.raises(ConfigError, match="known: none"):
        find_run(tmp_path / "empty", "rum")


def test_runs_live_here_unless_the_site_says_otherwise() -> None:
    assert runs_root(None) == Path("results/runs")
    assert runs_root("~/runs") == Path.home() / "runs"
