from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.core.failures import failures, record_failure
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import Plan, plan_path, read_plan, read_plans, write_plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.core.unit import Unit
from rag_hpc.errors import CorruptOutput, IncompleteError

REQUEST = Request(run="run", number=0, stages=["a"], settings={"a": {"x": 1}}, workers=1, cluster={"launcher": "local"})
DEEP = b"[" * 100_000
WRONG = [b"", b"{", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe", DEEP, b'{"a": ' + DEEP]


def as_it_is(value: dict[str, Any]) -> dict[str, Any]:
    return value


@pytest.mark.parametrize(
    "value", [{"a": 1}, {"z": [1.5, None, {"é": "\udce9"}], "seals": {}}, {"a": {1: 2, 10: 3, 2: 4}}]
)
def test_a_sealed_value_comes_back_and_any_change_of_a_byte_is_found(tmp_path: Path, value: dict[str, Any]) -> None:
    path, data = tmp_path / "a.json", sealed_json(value)
    path.write_bytes(data)
    found = read_object(path, "do this", as_it_is)
    assert found.pop("seal") and found == json.loads(json.dumps(value))
    for at in range(len(data) - 1):  # the last is the end of the line
        for bit in (1, 4):
            path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            try:
                other = read_object(path, "do this", as_it_is)
            except CorruptOutput as error:
                assert str(error).startswith(f"{path}: damaged (") and str(error).endswith("; do this")
            else:  # the seal's own name is what changed: the value is whole
                assert {name: other[name] for name in found} == found and "seal" not in other


def test_a_file_of_the_version_before_has_no_seal_and_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "a.json", "", as_it_is) == {"a": 1}
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "b.json", "", as_it_is)


@pytest.mark.parametrize(
    "change",
    [
        {"workers": "2"},
        {"workers": True},
        {"stages": "a"},
        {"stages": [1]},
        {"settings": []},
        {"more": 1},
        {"policy": 3},
    ],
)
def test_a_member_that_is_unknown_or_of_another_type_is_found(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {**vars(REQUEST), **change}
    with pytest.raises(TypeError):
        typed(Request, values)
    assert typed(Request, vars(REQUEST)) == REQUEST


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A run with a submission and a plan."""
    ledger = Ledger(tmp_path / "run")
    ledger.create({"corpus": {"name": "pydoc"}})
    write_plan(plan_path(ledger.run_dir, ledger.submit(REQUEST).number, "a"), plan())
    return ledger


def plan(stage: str = "a", fingerprint: str = "ab" * 32, **more: Any) -> Plan:
    values: dict[str, Any] = {
        "config": {"x": 1},
        "output_config": {"x": 1},
        "inputs": {},
        "units": [Unit(0, {})],
        "submission": 1,
        **more,
    }
    return Plan(run="run", stage=stage, version=1, fingerprint=fingerprint, workers=1, policy=Policy(), **values)


@pytest.mark.parametrize("data", WRONG)
def test_json_that_is_none_or_another_is_named_with_what_to_do(ledger: Ledger, data: bytes) -> None:
    """Of run.json, submissions, plans, outcomes and notes of failures: whoever reads them gets no traceback."""
    (ledger.run_dir / "a-0").mkdir()
    record_failure(ledger.run_dir / "a-0", Unit(0, {}), ValueError("no luck"), submission=1)
    note = ledger.run_dir / "a-0/failures/unit-00000.1.json"
    submission = ledger.submission()
    for path, read in (
        (plan_path(ledger.run_dir, 1, "a"), lambda path: read_plan(path)),
        (note, lambda path: failures(path.parents[1])),
        (submission.outcome_path("a"), lambda path: submission.outcome("a")),
        (submission.folder / "submission.json", lambda path: ledger.request()),
        (ledger.run_dir / "run.json", lambda path: ledger.config()),
    ):
        path.write_bytes(data)
        with pytest.raises(CorruptOutput) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: damaged (")
        assert "rag-hpc " in str(caught.value) or "remove it" in str(caught.value)


def test_lines_about_jobs_that_are_none_are_passed_over(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.submission().add_job(stage="a", kind="workers", ids=["5"])
    with (ledger.folder(1) / "jobs.jsonl").open("ab") as stream:
        stream.write(b'[1]\n"x"\n{"stage": 3, "kind": "gate"}\n{"kind": "gate"}\n\xff\n' + DEEP + b"\n")
    assert [job["ids"] for job in ledger.jobs()] == [["5"]]
    assert caplog.text.count("jobs.jsonl: skipped a line") == 6


def test_a_submission_of_another_run_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other")
    other.create({"corpus": {"name": "elsewhere"}})
    theirs = other.submit(REQUEST).folder / "submission.json"
    path = ledger.folder(1) / "submission.json"
    mine = path.read_bytes()
    path.write_bytes(theirs.read_bytes())
    with pytest.raises(CorruptOutput, match=rf"{path}: not of this submission, or not made beside this .*run\.json"):
        ledger.request()
    path.write_bytes(mine)
    (ledger.run_dir / "run.json").write_bytes((other.run_dir / "run.json").read_bytes())
    with pytest.raises(
        CorruptOutput, match=r"run\.json: one of them is another run's; .* give the rag-hpc run command"
    ):
        ledger.request()
    (ledger.run_dir / "run.json").unlink()
    ledger.create({"corpus": {"name": "pydoc"}})
    assert ledger.submit(REQUEST) == ledger.submission()  # as the message says


def test_plans_that_do_not_fit_together_are_named(ledger: Ledger) -> None:
    settings = {"a": {"x": 1}, "b": {"x": 1}}
    first, second = (plan_path(ledger.run_dir, 1, stage) for stage in "ab")
    write_plan(second, plan("b", inputs={"a": plan().folder}))
    assert list(read_plans(ledger.run_dir, 1, ["a", "b"], settings)) == ["a", "b"]
    with pytest.raises(CorruptOutput, match=rf"{first}: damaged \(made for other settings than its"):
        read_plans(ledger.run_dir, 1, ["a", "b"], {**settings, "a": {"x": 2}})
    for other in (second.read_bytes(), sealed_json(dataclasses.asdict(plan(submission=2)))):
        first.write_bytes(other)
        with pytest.raises(CorruptOutput, match=rf"{first}: damaged \(it is of"):
            read_plan(first)
    first.unlink()
    write_plan(first, plan(fingerprint="cd" * 32))
    with pytest.raises(CorruptOutput, match=rf"{second}: it reads a-abababababab, which {first} does not plan"):
        read_plans(ledger.run_dir, 1, ["a", "b"], settings)
    first.unlink()
    with pytest.raises(CorruptOutput, match=rf"which {first} does not plan"):
        read_plans(ledger.run_dir, 1, ["a", "b"], settings)
    with pytest.raises(IncompleteError):
        read_plan(first)
