"""train: pairs from what the user has, and an encoder or a reranker that learns from them on all ranks together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rag_hpc.core.hashing import hash_value
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.files.beir import load_beir_questions, load_beir_texts
from rag_hpc.sources.files.squad import load_squad, squad_files
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.questions import Question
from rag_hpc.stores.tables import Rejects
from rag_hpc.stores.trained import DROPOUT, Pair, pack_model, read_pairs, write_pairs, write_steps
from rag_hpc.train.config import Labels, TrainConfig
from rag_hpc.train.pairs import hard_negatives, hits_of, judged_pairs, mined_pairs, run_outputs, with_negatives


class Pairs(Stage):
    """Writes the training set, once for all ranks."""

    Config: ClassVar[type] = TrainConfig
    name = "train.pairs"
    version = 2

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit, with the hash of what the pairs are made from. Raises InputError without pairs."""
        pairs, rejects, counts = self._made()
        return [Unit(0, {"pairs": _hash(pairs), "dropped": len(rejects.rows), **counts})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write pairs.parquet; a question without a passage that answers it is a reject."""
        pairs, rejects, counts = self._made()
        if _hash(pairs) != unit.inputs["pairs"]:
            raise InputError("train.pairs: the training set changed since the plan was made; give the command again")
        write_pairs(out, pairs)
        taken = len(pairs) + len(rejects.rows)
        extra = {name: float(number) for name, number in counts.items()}
        return Counts(items_in=taken, items_out=len(pairs), dropped=rejects.write(out), extra=extra)

    def _made(self) -> tuple[list[Pair], Rejects, dict[str, int]]:
        config, rejects = self.config, Rejects()
        if not config.data and not config.run:
            raise ConfigError(
                "train: nothing to learn from; set train.data=FOLDER (BEIR, or SQuAD's JSON) or train.run=NAME"
            )
        outputs = run_outputs(Path(config.run)) if config.run else {}
        hits = hits_of(outputs) if config.negatives or config.labels is Labels.judged else {}
        answers: dict[str, list[str]] = {}
        found: Iterable[Pair | tuple[str, str]]
        if config.data:
            questions, texts = _read(Path(config.data), config.split)
            answers = {q["id"]: q["answers"] for q in questions}
            found = [one for question in questions for one in _pairs_of(question, texts)]
        elif config.labels is Labels.judged:
            found = judged_pairs(outputs, hits)
        else:
            found = mined_pairs(ChunkStore(outputs["chunk"]))
        pairs: list[Pair] = []
        for one in found:
            if isinstance(one, Pair):
                pairs.append(one)
            else:
                rejects.add(*one)
        if not pairs and not config.data and config.labels is Labels.mined:
            raise InputError(
                f"train.pairs: no title or heading of {config.run} has two words or more and is of one document alone; "
                "set train.data, or train.labels=judged"
            )
        if not pairs:
            raise InputError(
                f"train.pairs: no question of {config.data or config.run} has a passage that answers it "
                f"({len(rejects.rows)} questions looked at): a BEIR folder needs grades above 0 in "
                f"qrels/{config.split}.tsv, a run judged questions, or train.labels=mined"
            )
        if len(pairs) < config.batch_size:
            raise ConfigError(f"train.batch_size={config.batch_size}: there are {len(pairs)} pairs; lower it")
        relevant: dict[str, set[str]] = {}
        for pair in pairs:
            relevant.setdefault(pair.query_id, set()).add(pair.positive_id)
        hard = hard_negatives(outputs, hits, relevant, answers) if hits and config.negatives else {}
        pairs, counts = with_negatives(pairs, config.negatives, config.seed, hard)
        return pairs, rejects, dict(counts)


class Train(Stage):
    """What both trainings share: all ranks run the one unit together, and a checkpoint outlives an attempt."""

    Config: ClassVar[type] = TrainConfig
    version = 1
    launch = Launch.torchrun
    needs = ("train.pairs",)
    counts_from = "train.pairs"
    collective = True
    identity = ()  # sums over ranks have other last bits for another p
    kind: ClassVar[str]

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit. Raises MissingDependency where the libraries of training are not installed."""
        from rag_hpc.train.loop import check_libraries

        check_libraries(self.config)
        if self.kind == "reranker" and not self.config.negatives:
            raise ConfigError("train.negatives=0: a reranker learns from passages that do not answer; try 4")
        return [Unit(0, {"pairs": inputs["train.pairs"].total("items_out")})]

    def setup(self, ctx: Context) -> None:
        """Load the model and open the process group."""
        from rag_hpc.train.loop import Training

        self._training = Training(self.kind, self.config, ctx)

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write model.tar and steps.parquet on rank 0; other ranks write nothing."""
        pairs = read_pairs(ctx.inputs["train.pairs"])
        outcome = self._training.run(pairs, ctx)
        folder = ctx.scratch / "model"
        self._training.save(folder)
        if ctx.rank == 0:
            write_steps(out, outcome.steps)
            pack_model(folder, out)
        self._training.close()
        extra = {"steps": float(len(outcome.steps)), "tokens": float(sum(step[-1] for step in outcome.steps))}
        extra |= {DROPOUT: self._training.learner.dropout}
        return Counts(items_in=len(pairs), items_out=len(pairs), extra=extra, timings=outcome.timings)


class TrainEncoder(Train):
    """Contrastive training of a text encoder: a question's passage against all others of the step."""

    name = "train.encoder"
    kind = "encoder"


class TrainReranker(Train):
    """Training of a cross-encoder on passages that answer and that do not."""

    name = "train.reranker"
    kind = "reranker"


def _read(path: Path, split: str) -> tuple[list[Question], dict[str, str]]:
    """Return the questions of a BEIR folder or of SQuAD's JSON, and the passages by id that they name."""
    if (path / "qrels").is_dir():
        questions = load_beir_questions(path, split)
        return questions, load_beir_texts(path, {doc_id for question in questions for doc_id in question["relevant"]})
    if path.is_file() or squad_files(path):
        return load_squad(path)
    raise ConfigError(
        f"train.data={path}: neither a BEIR folder (qrels/, queries.jsonl, corpus.jsonl) nor SQuAD's JSON"
    )


def _pairs_of(question: Question, texts: dict[str, str]) -> list[Pair | tuple[str, str]]:
    if question.get("held_out"):
        return [(question["id"], "held-out")]
    relevant = [doc_id for doc_id, grade in sorted(question["relevant"].items()) if grade > 0 and doc_id in texts]
    pairs = [Pair(question["id"], question["text"], doc_id, texts[doc_id]) for doc_id in relevant]
    return list(pairs) or [(question["id"], "no-positive")]


def _hash(pairs: list[Pair]) -> str:
    return hash_value([[vars(pair) for pair in pairs]])
