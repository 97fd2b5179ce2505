"""judge: RAGAS's arithmetic with a scripted judge, undetermined scores, resuming, a judge that is down, labels."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeragas
import pytest
import stagerun
from chatserver import ChatServer
from generators import NO_VLLM, VLLM_PYTHON, tiny_llama

from rag_hpc.errors import ConfigError, InputError, Interrupted, MissingDependency
from rag_hpc.generators import judge as judges
from rag_hpc.generators import vllm
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.judge import METRICS, JudgeConfig, Judged, RagasJudge, Sample, load_ragas
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.replay import Journal
from rag_hpc.generators.server import PortRange, Server
from rag_hpc.inline import make_stage, same_for_any_p
from rag_hpc.models import endpoint
from rag_hpc.schema import from_plain, to_plain

HAS_RAGAS = importlib.util.find_spec("ragas") is not None
needs_ragas = pytest.mark.skipif(not HAS_RAGAS, reason="RAGAS is not installed: make test-ragas")
pytestmark = pytest.mark.filterwarnings("default")  # of the libraries below RAGAS


def given(prompt: str) -> dict[str, Any]:
    """Return what RAGAS asks about: the object behind its examples."""
    text = prompt.rpartition("following input\ninput: ")[2].rpartition("\nOutput:")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def script(body: dict[str, Any]) -> str:
    """Judge by words: a statement is a sentence, and holds where its last word stands in the context."""
    form, asked = body["response_format"]["json_schema"]["name"], given(body["messages"][0]["content"])

    def holds(statement: str, context: str) -> int:
        return int(statement.split()[-1] in context)

    if form == "StatementGeneratorOutput":
        return json.dumps({"statements": [s.strip() for s in asked["answer"].split(".") if s.strip()]})
    if form == "NLIStatementOutput":
        rows = [(s, holds(s, asked["context"])) for s in asked["statements"]]
        return json.dumps({"statements": [{"statement": s, "reason": "", "verdict": v} for s, v in rows]})
    if form == "AnswerRelevanceOutput":
        return "Here it is:\n```json\n" + json.dumps({"question": asked["response"], "noncommittal": 0}) + "\n```"
    if form == "ContextPrecisionOutput":
        return json.dumps({"reason": "", "verdict": holds(asked["answer"], asked["context"])})
    rows = [(s.strip(), holds(s, asked["context"])) for s in asked["answer"].split(".") if s.strip()]
    return json.dumps({"classifications": [{"statement": s, "reason": "", "attributed": v} for s, v in rows]})


def sample(**more: Any) -> Sample:
    base = Sample(
        sample_id="q",
        question="Where do fish live?",
        answer="Fish live in water. Fish live in trees.",
        contexts=["Birds fly.", "Fish live in water.", "Fish have gills, in water."],
        reference="Fish live in water",
    )
    return replace(base, **more)


def config(server: ChatServer, **more: Any) -> JudgeConfig:
    return from_plain(JudgeConfig, {"base_url": server.url, "model": "m", "timeout_s": 5.0, **more})


def embed(texts: Any) -> Any:
    import numpy as np

    return np.array([[1.0, 0.0] if "Where" in text else [0.6, 0.8] for text in texts])


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        server.answer = script
        yield server


@pytest.fixture
def ask(server: ChatServer) -> Callable[..., Judged]:
    def ask(one: Sample, folder: Path | None = None, **more: Any) -> Judged:
        with Journal(folder) as journal:
            return RagasJudge(config(server, **more), journal, embed, lambda: None).judge(one)

    return ask


@needs_ragas
def test_scores_are_ragas_s_arithmetic(ask: Callable[..., Judged]) -> None:
    found = ask(sample())
    # one of two statements; cosine 0.6; (1/2 + 2/3) / 2 over the contexts; the reference's one statement holds
    wanted = {"faithfulness": 0.5, "answer_relevancy": 0.6, "context_precision": 0.583333, "context_recall": 1.0}
    assert found.scores == pytest.approx(wanted, abs=1e-6) and not found.reasons
    assert found.counts["prompt_tokens"] > 100


@needs_ragas
def test_what_is_not_there_is_not_asked(ask: Callable[..., Judged], server: ChatServer) -> None:
    found = ask(sample(answer="", reference="", contexts=[]))
    assert set(found.scores) == set(METRICS) and set(found.scores.values()) == {None} and not server.bodies
    assert found.reasons["faithfulness"] == "unanswered" and found.reasons["context_recall"] == "no-reference"
    assert "answer_relevancy" not in ask(sample(contexts=[])).reasons


@needs_ragas
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I would rather not say.", "not-the-form"),
        ('{"statements": []}', "no-number"),
        ('{"classifications": [{"statement": "s", "reason": "r", "attributed": 7}]}', "no-number"),
    ],
)
def test_a_judge_that_says_no_number_leaves_the_score_undetermined(
    said: str, reason: str, ask: Callable[..., Judged], server: ChatServer
) -> None:
    server.answer = lambda body: said
    metric = "context_recall" if "attributed" in said else "faithfulness"
    found = ask(sample(), metrics=[metric])
    assert found.scores == {metric: None} and found.reasons == {metric: reason}


@needs_ragas
def test_one_refused_prompt_is_undetermined_and_a_refused_key_ends_all(
    ask: Callable[..., Judged], server: ChatServer
) -> None:
    server.statuses = [413]
    assert ask(sample(), metrics=["context_recall"]).reasons == {"context_recall": "refused"}
    server.statuses = [401]
    with pytest.raises(InputError, match=r"stage\.judge: .*HTTP 401.*stage\.judge\.api_key_env"):
        ask(sample())


@needs_ragas
def test_no_attempt_repeats_a_request_of_another(
    ask: Callable[..., Judged], server: ChatServer, tmp_path: Path
) -> None:
    first, num = ask(sample(), tmp_path / "carry"), len(server.bodies)
    assert ask(sample(), tmp_path / "carry") == first and len(server.bodies) == num
    ask(sample(), tmp_path / "carry", temperature=0.5, metrics=["answer_relevancy"])
    assert [body["seed"] for body in server.bodies[num:]] == [0, 1, 2]  # the same prompt, three draws


@pytest.fixture
def settings(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a stage whose judge is the server; RAGAS's part is its own where that is installed."""
    fakeragas.take_place(monkeypatch.setattr)
    server.answer = fakeragas.number
    return {**to_plain(config(server)), "metrics": ["faithfulness", "context_recall"]}


def test_any_number_of_workers_gives_the_same_scores(
    settings: dict[str, Any], chain: stagerun.Chain, tmp_path: Path
) -> None:
    found = same_for_any_p(make_stage("judge", settings), chain.out, tmp_path)
    lines = [json.loads(line) for path in found.files("scores.jsonl") for line in path.read_text().splitlines()]
    answers = chain.table("generate", "answers.parquet")
    assert [line["query_id"] for line in lines] == [row["query_id"] for row in answers]
    assert found.total("items_in") == found.total("items_out") == len(answers)
    by_id = {line["query_id"]: line for line in lines}
    assert by_id["nobody"]["reasons"]["faithfulness"] == "unanswered"
    assert by_id["q3"]["scores"] == {"faithfulness": None, "context_recall": None}
    extra = found.extra()
    assert extra["undetermined_faithfulness"] == 1.0 and extra["not_asked_faithfulness"] >= 1.0


def test_a_judge_that_is_down_leaves_the_unit_to_be_gone_on_with(
    settings: dict[str, Any],
    server: ChatServer,
    chain: stagerun.Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint.Endpoint, "_pause", lambda self, seconds: None)
    stage = make_stage("judge", {**settings, "concurrency": 1})
    ctx = replace(stagerun.context(chain.out, tmp_path), carry=tmp_path / "carry")
    unit = stage.plan(chain.out, tmp_path)[0]
    stage.setup(ctx)
    (tmp_path / "out").mkdir()
    server.statuses = [200] * 5 + [503] * 3
    with pytest.raises(Interrupted, match=r"judge: 2 of 3 samples of unit-00000 are judged.*did not answer in 3 tries"):
        stage.run(unit, tmp_path / "out", ctx)
    counts = stage.run(unit, tmp_path / "out", ctx)
    assert counts.timings["replayed"] >= 3 and counts.items_out == 3
    assert len({json.dumps(body, sort_keys=True) for body in server.bodies}) == len(server.bodies) - 3


def test_labelled_samples_are_judged_too(
    settings: dict[str, Any], chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.jsonl"
    row = {"question": "Q?", "answer": "A.", "contexts": ["C"], "reference": "A", "labels": {"faithfulness": 1}}
    path.write_text("".join(json.dumps({**row, "id": f"s{n}"}) + "\n" for n in range(40)))
    found = stagerun.run_stage(tmp_path / "run", "judge", {**settings, "labels": str(path)}, chain.out)
    lines = [json.loads(line) for file in found.files("labelled.jsonl") for line in file.read_text().splitlines()]
    assert len(found.holders("labelled.jsonl")) == 2 and len(lines) == 40
    assert lines[0]["labels"] == {"faithfulness": 1} and lines[0]["scores"]["faithfulness"] == 1.0
    path.write_text(json.dumps({**row, "id": "x", "labels": {"faithful": 1}}))
    with pytest.raises(ConfigError, match=r"labels.jsonl:1: no metric is called \"faithful\""):
        make_stage("judge", {**settings, "labels": str(path)}).plan(chain.out, tmp_path)


def test_what_is_missing_is_said_before_anything_is_queued() -> None:
    with pytest.raises(ConfigError, match=r"set stage\.judge\.base_url"):
        JudgeConfig().require()
    if not HAS_RAGAS:
        with pytest.raises(MissingDependency, match=r"pip install 'rag-hpc\[eval\]'"):
            JudgeConfig(base_url="http://127.0.0.1:1/v1", model="m").require()
        with pytest.raises(MissingDependency, match="RAGAS is not installed"):
            load_ragas()


@needs_ragas
@pytest.mark.skipif(not VLLM_PYTHON, reason=NO_VLLM)
def test_a_real_vllm_is_asked_in_ragas_s_forms(tmp_path: Path) -> None:
    """A model with random weights judges nothing: each score is a number that its grammar allowed, or has a reason."""
    ports, model = PortRange(), tiny_llama()
    serving = from_plain(GeneratorConfig, {"name": "vllm", "model": str(model), "vllm": {"python": VLLM_PYTHON}})
    serving.vllm.enforce_eager, serving.vllm.kv_cache_gib = True, 1
    key, port = "a-key-of-this-test", ports.free_port()
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    server = Server(
        vllm.command(serving, 1, None, port, tmp_path / "plain.jinja"),
        vllm.environment(serving, 1, key, ports.first, tmp_path),
        tmp_path,
    )
    try:
        where = {"base_url": f"http://127.0.0.1:{port}/v1", "model": vllm.NAME, "api_key_file": str(tmp_path / "key")}
        client = OpenAIGenerator(from_plain(GeneratorConfig, {"name": "openai", **where}))
        server.wait_until(client.answers, 400.0, lambda: None)
        with Journal(tmp_path / "carry") as journal:
            settings = from_plain(JudgeConfig, {**where, "max_tokens": 200, "timeout_s": 60.0})
            judged = RagasJudge(settings, journal, embed, lambda: None).judge(sample())
    finally:
        server.close()
        ports.close()
    print(judged)
    known = {judges.REFUSED, judges.NO_TEXT, judges.NOT_THE_FORM, judges.NO_NUMBER}
    for metric, score in judged.scores.items():
        assert (score is None and judged.reasons[metric] in known) or (score is not None and 0 <= score <= 1)
    assert set(judged.scores) == set(METRICS)
    assert judged.counts.get("prompt_tokens", 0) > 0
