"""Runs for tests, written by the same plan, commit and manifest code as real ones, in the stages' own schemas.

Nothing is computed by a model: rankings are drawn at random around the truth, times are invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_corpus
import numpy as np

from rag_hpc.algo.answer.cite import verify_citations
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.core import commit, manifest
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.hashing import fingerprint
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path, write_plan
from rag_hpc.core.record import Meter, where
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.evaluate import by_document, judge_answers, judge_index, judge_queries, trec_lines
from rag_hpc.stages.registry import stage_class
from rag_hpc.stores.answers import COLUMNS as ANSWER_COLUMNS
from rag_hpc.stores.answers import open_answers
from rag_hpc.stores.chunks import COLUMNS, open_chunks, split_evenly
from rag_hpc.stores.documents import open_documents
from rag_hpc.stores.hits import ANN, HITS, hits_table
from rag_hpc.stores.judged import write_scores
from rag_hpc.stores.metrics import RUN, write_judged, write_metrics
from rag_hpc.stores.questions import FOUND_AGAIN, read_questions, write_questions
from rag_hpc.stores.shards import CENTROIDS
from rag_hpc.stores.tables import Rejects, write_table
from rag_hpc.stores.vectors import VECTORS

STAGES = [
    "crawl",
    "clean",
    "dedup.sign",
    "dedup.group",
    "dedup.verify",
    "dedup.link",
    "dedup.drop",
    "chunk",
    "lexical",
    "encode",
    "vectors.train",
    "vectors.build",
    "retrieve.queries",
    "retrieve.search",
    "generate",
    "evaluate",
]
SERIAL_S = {
    "crawl": 64.0,
    "clean": 7.5,
    "dedup.sign": 5.5,
    "dedup.group": 0.4,
    "dedup.verify": 0.3,
    "dedup.link": 0.1,
    "dedup.drop": 0.8,
    "chunk": 9.0,
    "lexical": 3.6,
    "encode": 148.0,
    "vectors.train": 2.2,
    "vectors.build": 1.6,
    "retrieve.queries": 1.4,
    "retrieve.search": 11.0,
    "generate": 4.2,
    "evaluate": 1.9,
    "judge": 2.0,
}
SETUP_S = {"encode": 4.1, "retrieve.search": 3.2, "lexical": 1.1}


@dataclass(kw_only=True)
class Shape:
    """What a fake run looks like."""

    name: str = "demo-cluster"
    pipeline: str = "cluster"
    p: int = 2
    overhead: float = 0.04  # share of a unit's time lost to each further worker
    num_shards: int = 4
    ann: bool = True
    ann_flaws: int = 0  # questions whose fifth hit the vector index misses
    seed: int = 7  # of the rankings
    dropped_in_silence: int = 0  # pages that clean does not take in
    milestones: dict[str, Any] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    finish: int = 99  # how many stages are finished
    start_unix: float = 1_760_000_000.0
    queue_s: float | None = None
    pressure: float = 4.0  # of the CPUs, percent
    stand_ins: bool = False  # titles ask
    absent: dict[str, str] = field(default_factory=dict)  # relevant ids without a document, and why
    first_page: int = 0  # another one makes other documents
    corpus: dict[str, Any] = field(default_factory=dict)  # further settings of the corpus

    @property
    def planned(self) -> list[str]:
        """Its stages; without a vector index there is nothing to build for one."""
        return [stage for stage in self.stages if self.ann or not stage.startswith("vectors")]


def baseline(name: str = "demo-baseline", **values: Any) -> Shape:
    """Return the shape of a baseline."""
    return Shape(name=name, pipeline="baseline", p=1, num_shards=1, ann=False, **values)


def build(root: Path, shape: Shape) -> Path:
    """Write a run under `root` and return its folder."""
    return FakeRun(root, shape).write()


class FixedMeter(Meter):
    """A meter that reports invented times."""

    def __init__(self, started: float, work_s: float, pressure: float) -> None:
        super().__init__()
        self._values = {
            "started_unix": started,
            "ended_unix": round(started + work_s * 1.02, 3),
            "work_s": work_s,
            "flush_s": round(work_s * 0.02, 4),
            "cpu_s": round(work_s * 0.9, 4),
            "bytes_read": 3 << 20,
            "bytes_written": 1 << 20,
            "peak_rss_bytes": 412 << 20,
            "pressure_cpu": pressure,
            "energy_j": None,
        }

    def values(self) -> dict[str, Any]:
        """Return the measured fields of a Record."""
        return dict(self._values)


class FakeRun:
    """Writes one run, stage by stage."""

    def __init__(self, root: Path, shape: Shape, number: int = 1) -> None:
        self.shape, self.number = shape, number
        self.run_dir = root / shape.name
        self.now = shape.start_unix
        self.done: dict[str, Manifest] = {}
        self.documents = fake_corpus.documents()
        self.kept = [d for i, d in enumerate(self.documents) if i not in (5, 11, 17)]
        self.chunks = [chunk for document in self.kept for chunk in fake_corpus.chunks(document)]
        self.questions = fake_corpus.questions(self.kept)
        for question in self.questions if shape.stand_ins else ():
            question |= {"stand_in": True, "answers": [], "held_out": False}

    def write(self) -> Path:
        """Write config, submission, plans, units and manifests."""
        shape = self.shape
        self.run_dir.mkdir(parents=True, exist_ok=True)
        config = {
            "pipeline": {"name": shape.pipeline},
            "milestones": shape.milestones,
            "workers": shape.p,
            "corpus": {"name": "pydoc", "questions": "pydoc_questions.jsonl", "max_pages": 24, **shape.corpus},
        }
        self._store("run.json", {"run": shape.name, "config": config, "created_unix": shape.start_unix})
        settings = {stage: self.settings(stage) for stage in shape.planned}
        self._store(
            f"submissions/{self.number:04d}/submission.json",
            {
                "run": shape.name,
                "number": self.number,
                "stages": shape.planned,
                "settings": settings,
                "workers": shape.p,
                "cluster": {"name": "local", "env": {"TOKEN": "a-secret"}},
                "submitted_unix": shape.start_unix - 3,
            },
        )
        for number, stage in enumerate(shape.planned):
            if number <= shape.finish:
                self.stage(stage, close=number < shape.finish)
        return self.run_dir

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the stage's settings: enough to tell layouts and seeds apart."""
        if stage in ("lexical", "vectors.train", "vectors.build"):
            return {"num_shards": self.shape.num_shards}
        more: dict[str, dict[str, Any]] = {"retrieve.search": {"seed": self.shape.seed}, "judge": {"model": "m"}}
        return more.get(stage, {})

    def stage(self, name: str, *, close: bool) -> None:
        """Write one stage; `close=False` leaves its last unit out, so that it is not finished."""
        work, cls = self._work(name), stage_class(name)
        units = [Unit(i, {"number": i}) for i in range(len(work))]
        inputs = {need: self.done[need] for need in (*cls.needs, *cls.wants) if need in self.done}
        hashes = {need: found.output_hash for need, found in inputs.items()}
        plan = Plan(
            run=self.shape.name,
            stage=name,
            version=1,
            config=self.settings(name),
            output_config=self.settings(name),
            units=units,
            fingerprint=fingerprint(name, 1, self.settings(name), hashes),
            submission=self.number,
            inputs={need: found.folder.name for need, found in inputs.items()},
            workers=self.shape.p,
            input_hashes=hashes,
            identity=stage_class(name).identity,
            counts_from=stage_class(name).counts_from,
        )
        write_plan(plan_path(self.run_dir, self.number, name), plan)
        units_dir = self.run_dir / plan.folder / commit.UNITS
        units_dir.mkdir(parents=True, exist_ok=True)
        for unit, write in zip(units if close else units[:-1], work, strict=False):
            draft = commit.open_draft(units_dir, commit.draft_name(unit, self.number, 0, 0))
            counts = write(draft)
            commit.commit(draft, unit, counts, self._meter(name, unit, len(units)), self._identity(name, unit))
        self.now += SERIAL_S[name] / min(self.shape.p, len(units)) + 1.0
        if close:
            self.done[name] = manifest.build(plan, units_dir.parent)
            manifest.publish(self.done[name])

    def _store(self, name: str, value: Any) -> None:
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical_json(value))

    def _meter(self, stage: str, unit: Unit, num_units: int) -> Meter:
        work_s = SERIAL_S[stage] / num_units * (1 + self.shape.overhead * (self.shape.p - 1))
        started = round(self.now + unit.index // self.shape.p * work_s * 1.02, 3)
        return FixedMeter(started, round(work_s, 4), self.shape.pressure)

    def _identity(self, stage: str, unit: Unit) -> dict[str, Any]:
        rank = unit.index % self.shape.p
        queue_s = None if self.shape.queue_s is None else self.shape.queue_s + rank
        kind = stage_class(stage).launch.value if self.shape.p > 1 else "array"
        return {
            **where(0.0),
            "run": self.shape.name,
            "stage": stage,
            "attempt": 1,
            "rank": rank,
            "submission": self.number,
            "p": self.shape.p,
            "setup_s": SETUP_S.get(stage, 0.6),
            "host": f"node-{rank + 1:02d}",
            "queue_s": queue_s,
            "launch": kind,
        }

    def _work(self, stage: str) -> list[Callable[[Path], Counts]]:
        """Return a function a unit that writes its files and returns its counts."""
        documents, kept = split_evenly(len(self.documents), 4), split_evenly(len(self.kept), 4)
        shards = split_evenly(len(self.chunks), self.shape.num_shards)
        blocks, rows = split_evenly(len(self.questions), 2), split_evenly(len(self.chunks), 6)
        plain = {
            "crawl": [
                _array("pages.npy", 3, drop, self.shape.first_page)
                for drop in (["http-404"], ["robots-denied"], *[[]] * 6)
            ],
            "clean": [self._clean(a, b) for a, b in documents],
            "dedup.sign": [_array("shingles.npy", b - a) for a, b in documents],
            "dedup.group": [_array("pairs.npy", 3)],
            "dedup.verify": [_array("verified.npy", b - a) for a, b in documents],
            "dedup.link": [_array("labels.npy", len(self.documents))],
            "dedup.drop": [self._drop(i) for i in range(4)],
            "chunk": [self._chunk(a, b) for a, b in kept],
            "lexical": [_array("index.npy", b - a) for a, b in shards],
            "encode": [_array(VECTORS, b - a) for a, b in rows],
            "vectors.train": [_array(CENTROIDS, 8)],
            "vectors.build": [_array("index.npy", b - a) for a, b in shards],
            "retrieve.queries": [self._queries],
            "retrieve.search": [self._search(a, b) for a, b in blocks],
            "generate": [self._generate(a, b) for a, b in blocks],
            "evaluate": [
                self._evaluate(part)
                for part in ("answers", "bm25", "dense", "fused", "ann")[: 5 if self.shape.ann else 4]
            ],
            "judge": [_judge, _judge],
        }
        return list(plain[stage])

    def _clean(self, start: int, stop: int) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            lost = self.shape.dropped_in_silence if start == 0 else 0
            with open_documents(out) as table:
                for document in self.documents[start : stop - lost]:
                    table.add(*document.values())
            return Counts(items_in=stop - start - lost, items_out=table.num_rows)

        return write

    def _drop(self, number: int) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            rejects = Rejects()
            for reason in [["exact-duplicate"], ["near-duplicate"], ["near-duplicate"], []][number]:
                rejects.add(f"doc-{number}", reason, "another")
            np.save(out / "documents.npy", np.arange(number), allow_pickle=False)
            dropped = rejects.write(out)
            return Counts(items_in=6, items_out=6 - sum(dropped.values()), dropped=dropped)

        return write

    def _chunk(self, start: int, stop: int) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            with open_chunks(out) as table:
                for document in self.kept[start:stop]:
                    for chunk in fake_corpus.chunks(document):
                        table.add(*[chunk[name] for name in COLUMNS])
            return Counts(items_in=stop - start, items_out=stop - start, extra={"chunks": table.num_rows})

        return write

    def _queries(self, out: Path) -> Counts:
        write_questions(out, self.questions, np.zeros((len(self.questions), 4), np.float16), self.shape.absent)
        num, asked = len(self.questions), {"relevant": 8.0, "absent": float(len(self.shape.absent))}
        extra = {**asked, "stand_ins": float(num * self.shape.stand_ins), FOUND_AGAIN: 0.91}
        return Counts(items_in=num, items_out=num, extra=extra)

    def hits(self, start: int, stop: int, method: str) -> list[tuple[Any, ...]]:
        """Return drawn hits: the truth somewhere near the top, nearer for better methods."""
        noise = {"bm25": 2.2, "dense": 1.7, "fused": 1.2, "ann": 1.7}[method]
        found = []
        for number, question in enumerate(self.questions[start:stop], start):
            rng = np.random.default_rng([self.shape.seed, number, len(method.replace("ann", "dense"))])
            good = np.array([3.0 if chunk["doc_id"] in question["relevant"] else 0.0 for chunk in self.chunks])
            scores = (good + rng.normal(0, noise, len(good))).astype(np.float32)
            order = np.lexsort((np.arange(len(scores)), -scores)).tolist()
            if method == "ann" and number < self.shape.ann_flaws:
                del order[4]
            for rank, o in enumerate(order[:30], 1):
                found.append(
                    (question["id"], method, rank, o, self.chunks[o]["chunk_id"], self.chunks[o]["doc_id"], scores[o])
                )
        return found

    def _search(self, start: int, stop: int) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            exact = [row for method in ("bm25", "dense", "fused") for row in self.hits(start, stop, method)]
            write_table(out / HITS, hits_table(exact))
            if self.shape.ann:
                write_table(out / ANN, hits_table(self.hits(start, stop, "ann")))
            return Counts(items_in=stop - start, items_out=stop - start)

        return write

    def answers(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """Return rows of answers: the first sentence of the best passage, and one of the second."""
        rows = []
        hits = self.hits(start, stop, "fused")
        for question in self.questions[start:stop]:
            best = [self.chunks[hit[3]] for hit in hits if hit[0] == question["id"]][:5]
            passages = [
                Passage(**{key: chunk[key] for key in ("chunk_id", "doc_id", "title", "text")}) for chunk in best
            ]
            said = [chunk["text"].split(". ")[0].rstrip(".") for chunk in best[:2]]
            text = f"{said[0]} [1]. {said[1]} [2, 4]."
            shown = ("citation", "supported", "reason", "start", "end")
            checks = [{key: getattr(c, key) for key in shown} for c in verify_citations(text, passages)]
            rows.append(
                (
                    question["id"],
                    question["text"],
                    text,
                    best[0]["title"],
                    True,
                    json.dumps(question["answers"]),
                    json.dumps(checks),
                    json.dumps([c["chunk_id"] for c in best]),
                    json.dumps([c["doc_id"] for c in best]),
                )
            )
        return rows

    def _generate(self, start: int, stop: int) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            with open_answers(out) as table:
                for row in self.answers(start, stop):
                    table.add(*row)
            return Counts(items_in=stop - start, items_out=table.num_rows)

        return write

    def _evaluate(self, part: str) -> Callable[[Path], Counts]:
        def write(out: Path) -> Counts:
            num, by_query = len(self.questions), {}
            if part == "answers":
                rows = [dict(zip(ANSWER_COLUMNS, row, strict=True)) for row in self.answers(0, num)]
                found, lines = judge_answers(rows)
                write_judged(out, lines)
            else:
                hits = hits_table(self.hits(0, num, part)).to_pylist()
                ranked = by_document(hits)
                (out / RUN).write_text(trec_lines(ranked, part), encoding="utf-8")
                found, by_query = judge_queries(
                    ranked,
                    read_questions(self.done["retrieve.queries"]),
                    ["nDCG@10", "RR@10", "R@10", "AP"],
                )
                if part == "ann":
                    found |= judge_index(hits, hits_table(self.hits(0, num, "dense")).to_pylist(), 10)
            chosen = part == "fused"
            write_metrics(out, part, num, found, by_query=by_query, stand_ins=self.shape.stand_ins, handed_on=chosen)
            return Counts(items_in=1, items_out=1)

        return write


def _judge(out: Path) -> Counts:
    """Write scores of which one is undetermined, and one was not asked for."""
    scores: list[tuple[float | None, str]] = [(1.0, ""), (0.5, ""), (None, "not-the-form"), (None, "unanswered")]
    lines = [
        {"query_id": f"q{n}", "scores": {"faithfulness": score}, "reasons": {"faithfulness": why} if why else {}}
        for n, (score, why) in enumerate(scores)
    ]
    write_scores(out, lines)
    return Counts(items_in=len(lines), items_out=len(lines))


def _array(name: str, num: int, dropped: Sequence[str] = (), first: int = 0) -> Callable[[Path], Counts]:
    def write(out: Path) -> Counts:
        np.save(out / name, np.arange(first, first + num), allow_pickle=False)
        return Counts(items_in=num + len(dropped), items_out=num, dropped=dict.fromkeys(dropped, 1))

    return write
