"""Frozen questions are asked again, and a drop beyond chance is an alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import pytest

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import CorruptOutput, InputError
from rag_hpc.search.answer import Asker
from rag_hpc.serve import watch
from rag_hpc.serve.client import Unanswered
from rag_hpc.serve.places import FOLDER

QUESTIONS = [f"Question {number}?" for number in range(40)]


class Served:
    """Answers from a table; a share of the questions is answered wrongly, or not at all."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.fails: set[str] = set()
        self.coverage = "4/4"

    def __call__(self, question: str) -> dict[str, Any]:
        if question in self.fails:
            raise Unanswered("group 1: late", "late")
        name = "lost" if question in self.lost else question
        passages = [{"chunk_id": f"{name}:{n}"} for n in range(5)]
        answer = {"question": question, "answer": name, "short": name, "found": True}
        return {**answer, "passages": passages, "coverage": self.coverage}


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def frozen(served: Served) -> dict[str, Any]:
    return watch.freeze(QUESTIONS, served)


def test_what_is_as_it_was_is_no_alarm(served: Served, frozen: dict[str, Any]) -> None:
    found = watch.check(frozen, served, 5.0)
    assert (found.recall, found.agreement, found.failed, found.partial, found.alarms) == (1.0, 1.0, 0, 0, [])
    assert (found.time, found.questions, found.canaries) == (5.0, 40, frozen["id"])


@pytest.mark.parametrize(("num", "alarm"), [(1, False), (2, False), (6, True), (40, True)])
def test_a_drop_is_an_alarm_once_chance_does_not_explain_it(
    served: Served, frozen: dict[str, Any], num: int, alarm: bool
) -> None:
    served.lost = set(QUESTIONS[:num])
    found = watch.check(frozen, served, 0.0)
    assert found.recall == found.agreement == 1 - num / 40 and found.recall <= found.recall_high
    assert [one.split()[0] for one in found.alarms] == (["recall", "agreement"] if alarm else [])


def test_an_answer_that_never_repeated_itself_is_not_missed(served: Served) -> None:
    def changing(question: str) -> dict[str, Any]:
        served.lost ^= {question}
        found = served(question)
        return found | {"passages": [{"chunk_id": question}]}

    frozen = watch.freeze(QUESTIONS, changing, 1)
    assert {row["agreement"] for row in frozen["questions"]} == {0.0}
    assert watch.check(frozen, lambda q: changing(q) | {"answer": "other", "short": ""}, 0.0).alarms == []


def test_no_answer_and_a_partial_one_are_alarms_at_once(served: Served, frozen: dict[str, Any]) -> None:
    served.fails = {QUESTIONS[3]}
    found = watch.check(frozen, served, 0.0)
    assert found.alarms == ["1 of 40 questions have no answer: group 1: late"] and found.failed == 1
    served.fails, served.coverage = set(), "3/4"
    assert watch.check(frozen, served, 0.0).alarms == ["40 of 40 questions were not asked of all shards"]


def test_what_is_frozen_stays_and_damage_is_named(frozen: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "watch"
    with pytest.raises(InputError, match="nothing is frozen yet"):
        watch.load(folder)
    folder.mkdir(mode=0o700)
    watch.save(folder, frozen)
    assert watch.load(folder)["questions"] == frozen["questions"]
    with pytest.raises(InputError, match="frozen already"):
        watch.save(folder, frozen)
    path = folder / watch.CANARIES
    path.write_text(path.read_text().replace("Question 1?", "Question 2?", 1))
    with pytest.raises(CorruptOutput, match="not the one that its seal is of"):
        watch.load(folder)


def test_the_command_freezes_checks_and_alarms(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.run_dir.parents[2])
    folder = run.run_dir / FOLDER / watch.WATCH
    assert main(["watch", "check", "run=demo"]) == 1
    assert "rag-hpc watch freeze --file FILE" in capsys.readouterr().err
    questions = [*fixedcorpus.ASKED.values()]
    text = "".join(f"{q} {n}\n" for n in range(12) for q in questions[n % len(questions) :][:1])
    Path("canaries.txt").write_text(text)
    assert main(["watch", "freeze", "--file", "canaries.txt", "run=demo", "baseline=1"]) == 0
    assert main(["watch", "check", "run=demo", "rounds=2", "every_s=0.01"]) == 0
    assert capsys.readouterr().out.count("well: 12 questions, recall 1.000, agreement 1.000") == 2
    assert not (folder / watch.ALARM).exists()
    real = Asker.answer
    monkeypatch.setattr(Asker, "answer", lambda self, question: real(self, "What else is there?"))
    assert main(["watch", "check", "run=demo", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["alarms"] and "ALARM run=demo: recall of the frozen set is" in told.err
    rows = [json.loads(line) for line in (folder / watch.ROWS).read_text().splitlines()]
    assert [bool(row["alarms"]) for row in rows] == [False, False, True]
    assert json.loads((folder / watch.ALARM).read_text())["recall"] == rows[-1]["recall"] < 1
    monkeypatch.setattr(Asker, "answer", real)
    assert main(["watch", "check", "run=demo"]) == 0 and not (folder / watch.ALARM).exists()
