from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import toystages

from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan
from rag_hpc.core.planner import check_conservation, make_plan
from rag_hpc.core.policy import Policy
from rag_hpc.errors import CorruptOutput, InputError
from rag_hpc.inline import alone


def fake_input(output_hash: str = "aa", items_out: int = 5) -> Manifest:
    unit = {"index": 0, "files": {}, "items_in": 9, "items_out": items_out, "dropped": {}, "extra": {}}
    return Manifest(
        stage="toy.source",
        version=1,
        fingerprint="f",
        config={},
        inputs={},
        units=[unit],
        quarantined=[],
        output_hash=output_hash,
        folder=Path("toy.source-f"),
    )


def plan_of(cls: type[toystages.Toy], inputs: dict[str, Manifest], more: dict[str, Any], **config: Any) -> Plan:
    submission = alone(Path("run"), cls.name, {"whole": "config"}, **{"workers": 2, **more})
    return make_plan(cls(toystages.ToyConfig(**config)), inputs, submission)


def plan_source(cls: type[toystages.Toy] = toystages.Source, **config: Any) -> Plan:
    return plan_of(cls, {}, {}, **config)


def plan_double(found: Manifest) -> Plan:
    return plan_of(toystages.Double, {"toy.source": found}, {})


def test_fingerprint_changes_with_settings_that_affect_output() -> None:
    assert plan_source().fingerprint != plan_source(rows=21).fingerprint


def test_fingerprint_stays_with_settings_that_do_not() -> None:
    assert plan_source().fingerprint == plan_source(max_ms=50, trouble="/x").fingerprint


def test_fingerprint_does_not_know_workers_or_submissions() -> None:
    policy = Policy(max_attempts=1, allow_failed_units=2, backup_after_s=1.0)
    other = plan_of(toystages.Source, {}, {"run": "other", "number": 9, "workers": 64, "policy": policy})
    assert plan_source().fingerprint == other.fingerprint and other.policy == policy


def test_fingerprint_changes_with_the_stage_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_source().fingerprint
    monkeypatch.setattr(toystages.Source, "version", 2)
    assert plan_source().fingerprint != before


def test_fingerprint_changes_with_the_stage_name() -> None:
    assert plan_source().fingerprint != plan_source(cls=toystages.Each).fingerprint


def test_fingerprint_changes_with_the_input() -> None:
    assert plan_double(fake_input("aa")).fingerprint != plan_double(fake_input("bb")).fingerprint


def test_fingerprint_changes_with_what_the_units_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source's units carry sizes and hashes: a file that changed makes other units under the same settings."""
    before = plan_source()
    real = toystages.Source.plan
    monkeypatch.setattr(
        toystages.Source,
        "plan",
        lambda self, inputs, shared: [
            dataclasses.replace(unit, inputs={**unit.inputs, "sha256": "new"}) for unit in real(self, inputs, shared)
        ],
    )
    assert plan_source().fingerprint != before.fingerprint


def test_plan_carries_all_that_a_worker_needs() -> None:
    plan = plan_double(fake_input())
    assert plan.inputs == {"toy.source": "toy.source-f"} and plan.input_hashes == {"toy.source": "aa"}
    assert [unit.inputs for unit in plan.units] == [{"unit": 0}]
    assert (plan.stage, plan.workers, plan.submission) == ("toy.double", 2, 1)


def test_nothing_to_do_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"toy\.source: nothing to do, its input is empty"):
        plan_source(num_units=0)


def test_items_lost_between_stages_are_an_error() -> None:
    source = fake_input(items_out=5)
    taken = dataclasses.replace(fake_input(), stage="toy.double", counts_from="toy.source")  # took in 9
    with pytest.raises(CorruptOutput, match=r"toy\.source put out 5 items but 9 were taken in"):
        check_conservation(taken, {"toy.source": source})
    check_conservation(taken, {"toy.source": fake_input(items_out=9)})
    check_conservation(dataclasses.replace(taken, quarantined=[3]), {"toy.source": source})
