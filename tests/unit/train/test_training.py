"""Training in this process: what is learnt and written, going on after a stop, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun
import trainset

from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.errors import ConfigError, CorruptOutput, InputError, Interrupted, MissingDependency
from rag_hpc.inline import make_stage, run_stage
from rag_hpc.models.encoder import Encoder, Reranker
from rag_hpc.models.folder import model_limit
from rag_hpc.stores.tables import read_table
from rag_hpc.stores.trained import Pair, read_pairs, unpack_model
from rag_hpc.train import loop
from rag_hpc.train.checkpoint import newest_checkpoint, write_checkpoint
from rag_hpc.train.order import batches_of, share_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def trained(kind: str, settings: dict[str, Any], folder: Path) -> Manifest:
    pairs = run_stage(make_stage("train.pairs", settings), {}, folder)
    return run_stage(make_stage(f"train.{kind}", settings), {"train.pairs": pairs}, folder)


def losses(output: Manifest) -> list[float]:
    column: list[float] = read_table(output.files("steps.parquet")[0])["loss"].to_pylist()
    return column


def test_an_encoder_learns_and_its_folder_is_read_by_the_encode_stage(settings: dict[str, Any], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    more = {"epochs": 6, "learning_rate": 1e-3, "matryoshka": [8], "mini_batch": 4, "negatives": 1, "max_tokens": 12}
    output = trained("encoder", {**settings, **more}, tmp_path)
    curve = losses(output)
    assert len(curve) == 30 and np.mean(curve[-5:]) < 0.8 * np.mean(curve[:5])
    assert output.total("items_in") == trainset.NUM and output.extra()["steps"] == 30
    unpack_model(output, tmp_path / "model")
    ours = Encoder(str(tmp_path / "model"), threads=1).encode(["cat dog"])
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(["cat dog"])
    assert np.allclose(ours, theirs, atol=1e-5)
    assert model_limit(str(tmp_path / "model")) == model_limit(settings["model"]) == 64


@pytest.mark.parametrize("loss", ["binary", "listwise"])
def test_a_reranker_learns_and_is_read_by_the_rerank_stage(
    settings: dict[str, Any], models: dict[str, str], tmp_path: Path, loss: str
) -> None:
    more = {"model": models["reranker"], "negatives": 3, "loss": loss, "epochs": 8, "learning_rate": 3e-3}
    output = trained("reranker", {**settings, **more}, tmp_path)
    curve = losses(output)
    assert np.mean(curve[-5:]) < 0.95 * np.mean(curve[:5])
    unpack_model(output, tmp_path / "model")
    assert np.isfinite(Reranker(str(tmp_path / "model"), threads=1).score([("cat", "dog")])).all()


class Stopped:
    """Runs a training under a context whose stop comes after so many steps."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.pairs = run_stage(make_stage("train.pairs", settings), {}, folder)
        self.settings, self.folder = settings, folder

    def run(self, out: str, after: int | None) -> Path:
        stage = make_stage("train.encoder", self.settings)
        ctx: Context = stagerun.context({"train.pairs": self.pairs}, self.folder / out)
        ctx.carry = self.folder / "carry"
        calls = iter(range(10_000))
        ctx.stop_requested = lambda: after is not None and next(calls) >= after
        stage.setup(ctx)
        (self.folder / out / "unit").mkdir(parents=True)
        stage.run(stage.plan(ctx.inputs, self.folder)[0], self.folder / out / "unit", ctx)
        return self.folder / out / "unit"


@pytest.fixture
def stopped(settings: dict[str, Any], models: dict[str, str], tmp_path: Path) -> Stopped:
    return Stopped({**settings, "model": models["dropout"], "mini_batch": 3, "checkpoint_steps": 4}, tmp_path)


@pytest.mark.parametrize("steps", [[0], [3], [2, 1, 3]])
def test_whoever_is_stopped_goes_on_to_the_same_bytes(stopped: Stopped, steps: list[int]) -> None:
    whole = stopped.run("whole", None)
    shutil.rmtree(stopped.folder / "carry")
    for number, after in enumerate(steps):
        with pytest.raises(Interrupted, match="which is its checkpoint"):
            stopped.run(f"part{number}", after)
    again = stopped.run("again", None)
    for name in ("steps.parquet", "model.tar"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_dropout_is_the_model_s_own_or_what_is_asked_for(
    settings: dict[str, Any], models: dict[str, str], tmp_path: Path
) -> None:
    given = {**settings, "model": models["dropout"], "max_steps": 1}
    found = [
        trained("encoder", {**given, "dropout": p}, tmp_path / str(p)).extra()["dropout"] for p in (None, 0.0, 0.4)
    ]
    assert found == [0.2, 0.0, 0.4]
    one, two = (losses(trained("encoder", {**given, "dropout": 0.0, "seed": 0}, tmp_path / name)) for name in "ab")
    plain = losses(trained("encoder", {**settings, "max_steps": 1}, tmp_path / "plain"))
    assert one == two == plain  # the same weights, of a model that drops nothing


def test_of_two_checkpoints_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    import torch

    tensors = {"weight:a": torch.arange(6.0).reshape(2, 3)}
    step = (0.5, 1.0, 1e-3, 7)
    for num in (1, 2, 3):
        write_checkpoint(tmp_path / "carry", "order", [step] * num, tensors)
    assert sorted(path.name for path in (tmp_path / "carry").iterdir()) == ["step-00000002", "step-00000003"]
    for name in ("state.safetensors", "state.json"):
        size = (tmp_path / "carry" / "step-00000003" / name).stat().st_size
        for cut in range(size):
            shutil.copytree(tmp_path / "carry", tmp_path / "cut")
            with (tmp_path / "cut" / "step-00000003" / name).open("r+b") as stream:
                stream.truncate(cut)
            found = newest_checkpoint(tmp_path / "cut", "order")
            assert found is not None and (found.step, found.steps) == (2, [step] * 2)
            shutil.rmtree(tmp_path / "cut")
    with pytest.raises(CorruptOutput, match="another training set or order; remove it"):
        newest_checkpoint(tmp_path / "carry", "another")


def test_a_loss_that_is_not_finite_names_step_and_questions(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the (loss|gradient) of step \d is not finite; its questions: q\d+, q\d+"):
        trained("encoder", {**settings, "learning_rate": 1e30, "warmup": 0.0}, tmp_path)


def test_no_step_holds_a_question_or_a_passage_twice() -> None:
    pairs = [Pair(f"q{i}", f"question {i // 2}", f"d{i}", f"passage {i % 7}") for i in range(28)]
    batches = batches_of(pairs, 4, 2, seed=1)
    assert batches == batches_of(pairs, 4, 2, seed=1) != batches_of(pairs, 4, 2, seed=2)
    for batch in batches:
        assert len({pairs[at].query for at in batch}) == len({pairs[at].positive for at in batch}) == 4
        assert [*share_of(batch, 0, 2), *share_of(batch, 1, 2)] == batch
    with pytest.raises(InputError, match="lower it"):
        batches_of(pairs, 8, 1, seed=0)


def test_a_set_without_positives_is_refused_when_it_is_planned(tmp_path: Path, models: dict[str, str]) -> None:
    stage = make_stage("train.pairs", {"data": str(trainset.write_beir(tmp_path / "beir", grade=0))})
    with pytest.raises(InputError, match=r"no question of .* \(40 questions looked at\): .* grades above 0"):
        stage.plan({}, tmp_path)


def refused(kind: str, settings: dict[str, Any], folder: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        trained(kind, settings, folder)


def test_what_cannot_be_trained_is_refused_with_a_remedy(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("encoder", {"data": ""}, "set train.data=FOLDER"),
        ("encoder", {"data": str(tmp_path)}, "neither a BEIR folder"),
        ("encoder", {"batch_size": 41}, "there are 40 pairs; lower it"),
        ("encoder", {"negatives": 40}, "the set has 40 passages; lower it"),
        ("encoder", {"matryoshka": [17]}, "has 16 dimensions"),
        ("encoder", {"max_tokens": 65}, "takes 64; lower it"),
        ("encoder", {"precision": "int8"}, "set float32"),
        ("encoder", {"dropout": 1.0}, "null takes the model's"),
        ("encoder", {"strategy": "deepspeed", "mini_batch": 2}, "set train.mini_batch=0"),
        ("reranker", {}, "try 4"),
    ]
    for number, (kind, more, match) in enumerate(wrong):
        refused(kind, {**settings, **more}, tmp_path / str(number), match)
    monkeypatch.setattr(loop.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'rag-hpc\[train\]'"):
        trained("encoder", settings, tmp_path / "bare")


def test_ranks_have_to_share_a_batch_evenly(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"set train.batch_size=6, or other workers"):
        loop.Training("encoder", make_stage("train.encoder", settings).config, Context(world_size=3))


def test_squad_gives_its_answerable_questions(tmp_path: Path) -> None:
    def asked(name: str, **more: Any) -> dict[str, Any]:
        return {"id": name, "question": f"Who is {name}?", "answers": [{"text": "a cat"}, {"text": "a cat"}], **more}

    qas = [asked("one"), asked("two", is_impossible=True), asked("three")]
    paragraphs = [{"context": "It is a cat.", "qas": qas[:2]}, {"context": "And a cat.", "qas": qas[2:]}]
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"version": "2", "data": [{"title": "Some_cats", "paragraphs": paragraphs}]}))
    made: Callable[..., Manifest] = lambda n: run_stage(  # noqa: E731
        make_stage("train.pairs", {"data": str(file), "batch_size": 2, "negatives": n}), {}, tmp_path / f"run{n}"
    )
    assert read_pairs(made(1)) == [
        Pair("one", "Who is one?", "Some_cats#0", "Some cats\nIt is a cat.", ["Some cats\nAnd a cat."]),
        Pair("three", "Who is three?", "Some_cats#1", "Some cats\nAnd a cat.", ["Some cats\nIt is a cat."]),
    ]
    file.write_text("[]")
    with pytest.raises(InputError, match="not SQuAD's JSON"):
        made(0)
