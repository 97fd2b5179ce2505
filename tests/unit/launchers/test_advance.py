from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import toystages

from rag_hpc.core import commit, manifest
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import plan_path, read_plan
from rag_hpc.errors import CorruptOutput, IncompleteError, InputError, Interrupted, UnitFailed
from rag_hpc.launchers import advance as module
from rag_hpc.launchers.advance import advance


def stage_dirs(ledger: Ledger, stage: str) -> list[Path]:
    return sorted(ledger.run_dir.glob(f"{stage}-*"))


def test_chain_is_planned_and_closed_stage_by_stage(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run"))
    first = advance(submission)
    assert (first.finished, first.stage) == ([], "toy.source")
    assert not plan_path(ledger.run_dir, 1, "toy.double").exists()
    toystages.work(first.open_plan, ledger.run_dir)  # type: ignore[arg-type]
    second = advance(submission)
    assert (second.finished, second.stage) == (["toy.source"], "toy.double")
    toystages.work(second.open_plan, ledger.run_dir)  # type: ignore[arg-type]
    closed: list[str] = []
    last = advance(submission, on_close=lambda found: closed.append(found.stage))
    assert (last.finished, last.stage, closed) == (["toy.source", "toy.double"], None, ["toy.source", "toy.double"])


def test_advancing_twice_changes_nothing(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run"))
    advance(submission)
    before = {p: p.read_bytes() for p in ledger.run_dir.rglob("*") if p.is_file()}
    assert advance(submission).stage == "toy.source"
    assert {p: p.read_bytes() for p in ledger.run_dir.rglob("*") if p.is_file()} == before


def test_gates_that_run_at_once_agree(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run"))
    first = advance(submission)
    toystages.work(first.open_plan, ledger.run_dir)  # type: ignore[arg-type]
    stages: list[str | None] = []
    gates = [threading.Thread(target=lambda: stages.append(advance(submission).stage)) for _ in range(8)]
    for gate in gates:
        gate.start()
    for gate in gates:
        gate.join()
    assert stages == ["toy.double"] * 8


def test_resumed_run_fast_forwards_over_finished_stages(ledger: Ledger) -> None:
    toystages.run_inline(ledger.submit(toystages.toy_request("run", ("toy.source",))))
    record = stage_dirs(ledger, "toy.source")[0] / "units/unit-00000/record.json"
    before = record.read_bytes()
    submission = ledger.submit(toystages.toy_request("run", workers=9))
    assert advance(submission).finished == ["toy.source"]
    toystages.run_inline(submission)
    assert record.read_bytes() == before
    assert read_plan(plan_path(ledger.run_dir, 2, "toy.source")).workers == 9


def test_resubmission_does_only_what_is_absent(ledger: Ledger) -> None:
    plan = advance(ledger.submit(toystages.toy_request("run", ("toy.source",)))).open_plan
    assert plan is not None
    toystages.work(plan, ledger.run_dir)
    units_dir = ledger.run_dir / plan.folder / commit.UNITS
    shutil.rmtree(units_dir / "unit-00003")
    toystages.run_inline(ledger.submit(toystages.toy_request("run", ("toy.source",))))
    assert [commit.read_record(units_dir / f"unit-{i:05d}")["submission"] for i in range(5)] == [1, 1, 1, 2, 1]


def test_changed_config_makes_a_folder_beside_the_old_one(ledger: Ledger) -> None:
    old = toystages.run_inline(ledger.submit(toystages.toy_request("run")))
    before = toystages.stage_bytes(old["toy.double"].folder)
    new = toystages.run_inline(ledger.submit(toystages.toy_request("run", scale=3)))
    assert len(stage_dirs(ledger, "toy.source")) == 2 and len(stage_dirs(ledger, "toy.double")) == 2
    assert new["toy.double"].output_hash != old["toy.double"].output_hash
    assert toystages.stage_bytes(old["toy.double"].folder) == before
    again = toystages.run_inline(ledger.submit(toystages.toy_request("run")))
    assert again["toy.double"].output_hash == old["toy.double"].output_hash
    assert len(stage_dirs(ledger, "toy.double")) == 2


def test_setting_without_effect_on_output_keeps_the_folder(ledger: Ledger) -> None:
    toystages.run_inline(ledger.submit(toystages.toy_request("run")))
    toystages.run_inline(ledger.submit(toystages.toy_request("run", max_ms=1, trouble="/no/such")))
    assert len(stage_dirs(ledger, "toy.source")) == 1


def test_lost_items_stop_the_chain(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run", ("toy.source", "toy.leak")))
    with pytest.raises(CorruptOutput, match=r"toy\.leak: toy\.source put out \d+ items but \d+ were taken in"):
        toystages.run_inline(submission)
    assert not (stage_dirs(ledger, "toy.leak")[0] / manifest.MANIFEST).exists()


def test_corrupt_unit_stops_the_chain_and_removing_it_mends_it(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run", ("toy.source",)))
    plan = advance(submission).open_plan
    assert plan is not None
    toystages.work(plan, ledger.run_dir)
    unit_dir = ledger.run_dir / plan.folder / commit.UNITS / "unit-00002"
    good = (unit_dir / toystages.NUMBERS).read_bytes()
    (unit_dir / toystages.NUMBERS).write_bytes(good[:-8] + b"\0" * 8)
    with pytest.raises(CorruptOutput, match=f"{unit_dir}/numbers.bin: .*rag-hpc retry --files"):
        advance(submission)
    shutil.rmtree(unit_dir)
    toystages.run_inline(submission)
    assert (unit_dir / toystages.NUMBERS).read_bytes() == good


def test_a_unit_that_is_not_whole_is_done_again_and_nothing_that_depends_on_it(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    done = toystages.run_inline(ledger.submit(toystages.toy_request("run")))
    before = {name: toystages.stage_bytes(found.folder) for name, found in done.items()}
    longer, gone = (done["toy.source"].unit_dir(index) for index in (2, 4))
    (longer / toystages.NUMBERS).write_bytes(b"other")
    shutil.rmtree(gone)
    again = toystages.run_inline(ledger.submit(toystages.toy_request("run")))
    assert {name: toystages.stage_bytes(found.folder) for name, found in again.items()} == before
    assert f"{longer / toystages.NUMBERS}: 5 bytes instead of" in caplog.text and f"{gone}/record.json" in caplog.text
    by = {
        name: [commit.read_record(found.unit_dir(index))["submission"] for index in range(5)]
        for name, found in again.items()
    }
    assert by == {"toy.source": [1, 1, 2, 1, 2], "toy.double": [1] * 5}


def test_quarantined_unit_fails_the_stage_or_is_allowed(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "unit-00001").write_text("fail")
    values = {"trouble": str(tmp_path), "max_attempts": 2}
    submission = ledger.submit(toystages.toy_request("run", **values))
    with pytest.raises(UnitFailed, match=r"1 of 5 units failed 2 times \(unit-00001\); the first: ValueError: no luck"):
        toystages.run_inline(submission)
    allowed = ledger.submit(toystages.toy_request("run", allow_failed_units=1, **values))
    plan = advance(allowed).open_plan
    assert plan is not None and plan.stage == "toy.double" and len(plan.units) == 4


def test_pipeline_without_a_needed_stage_says_so(ledger: Ledger) -> None:
    with pytest.raises(IncompleteError, match=r"toy\.double: needs toy\.source"):
        advance(ledger.submit(toystages.toy_request("run", ("toy.double",))))


def test_empty_input_is_an_input_error(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="nothing to do"):
        advance(ledger.submit(toystages.toy_request("run", num_units=0)))


def test_new_submission_fences_drafts_of_the_one_before(ledger: Ledger) -> None:
    plan = advance(ledger.submit(toystages.toy_request("run"))).open_plan
    assert plan is not None
    units_dir = ledger.run_dir / plan.folder / commit.UNITS
    commit.open_draft(units_dir, commit.draft_name(plan.units[0], 1, 0, 0))
    advance(ledger.submit(toystages.toy_request("run")))
    assert commit.drafts(units_dir) == {}


def test_stop_signal_while_closing_is_no_open_stage(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted is an IncompleteError too; taken for one, it would start the workers that it should stop."""

    def build(*args: object) -> None:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(module.manifest, "build", build)
    with pytest.raises(Interrupted):
        advance(ledger.submit(toystages.toy_request("run")))


def test_moved_run_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    toystages.run_inline(ledger.submit(toystages.toy_request("run", ("toy.source",))))
    moved = Ledger(tmp_path / "elsewhere")
    ledger.run_dir.rename(moved.run_dir)
    found = toystages.run_inline(moved.submit(toystages.toy_request("run")))
    assert set(found) == {"toy.source", "toy.double"}
    assert json.loads((found["toy.double"].folder / manifest.MANIFEST).read_text())["inputs"] == {
        "toy.source": found["toy.source"].output_hash
    }
