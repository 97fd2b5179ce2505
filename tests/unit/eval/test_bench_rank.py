"""The ranking handed on, beside those that it is made of: collections as runs read them, figures as runs have them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

zstandard = pytest.importorskip("zstandard")
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.eval import quality
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank import feedback, rank
from rag_hpc.eval.bench.rank.collections import overrides_of
from rag_hpc.eval.results import Results
from rag_hpc.search import jvm
from rag_hpc.sources.files.beir import load_beir_questions


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(zstandard.compress(text) if path.suffix == ".zst" else text)


def test_scores_are_those_that_evaluate_gives(run: Results) -> None:
    scores, metrics = rank.scores_of(run), quality.metrics(run)
    for method in ("bm25", "dense", "fused"):
        assert statistics.fmean(scores[method].values()) == pytest.approx(metrics[method][rank.MEASURE], abs=1e-6)
    assert set(scores) == {"bm25", "dense", "fused", *rank.HALVES}
    assert scores["rrf"] != scores["halves"]


def test_halves_share_no_question_and_do_not_depend_on_the_order() -> None:
    names = [f"q{n}" for n in range(9)]
    one, two = rank.halves(names)
    assert sorted(one + two) == names and abs(len(one) - len(two)) <= 1
    assert rank.halves(names[::-1]) == (one, two)


def test_the_row_is_judged_on_the_other_half(run: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rank, "_run", lambda name, data, folder: run)
    options = {"collections": "pydoc", "languages": "de", "feedback": "", "out": str(tmp_path / "gains.svg")}
    rows = {row.name: row for row in rank.run({"data": str(tmp_path), **options})}
    judged, beside = rows["rank.pydoc"], rows["rank.xquad-de"]
    scores = rank.scores_of(run)
    used = rank.halves([*scores["fused"]])[1]
    means = {method: statistics.fmean(values[q] for q in used) for method, values in scores.items()}
    assert (judged.name, judged.ours, judged.peers["dense"]) == ("rank.pydoc", means["fused"], means["dense"])
    assert judged.ratio == pytest.approx(means["fused"] - max(means["bm25"], means["dense"]))
    assert (judged.bar, judged.met) == (0.0, judged.ratio >= 0)
    assert (beside.name, beside.bar, beside.met) == ("rank.xquad-de", None, None)
    assert beside.ours == pytest.approx(statistics.fmean(scores["fused"].values()))


def test_what_fusing_gains_is_told_for_each_signal(
    run: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rank, "_run", lambda name, data, folder: run)
    rows = {row.name: row for row in rank.run({"data": str(tmp_path), "collections": "pydoc", "feedback": ""})}
    scores = rank.scores_of(run)
    used = rank.halves([*scores["fused"]])[1]
    for signal in ("bm25", "dense"):
        gain = statistics.fmean(scores["fused"][q] - scores[signal][q] for q in used)
        row = rows[f"rank.pydoc.over_{signal}"]
        assert row.ours == pytest.approx(gain) and row.interval is not None
        assert row.interval[0] <= gain <= row.interval[1] and row.met == (row.interval[0] >= 0)
    differs = rows["rank.pydoc.differs"]
    assert differs.ours == pytest.approx(differs.peers["better"] + differs.peers["worse"])
    assert differs.ours == statistics.fmean(scores["fused"][q] != scores["dense"][q] for q in used)


def test_feedback_is_anserini_s_on_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))
    words = "wing flow lift drag nose jet heat wall".split()
    texts = [" ".join(words[(n * m) % 8] for m in range(1, 4 + n % 5)) for n in range(1, 61)]
    documents = [{"_id": f"d{n}", "title": "", "text": f"{text} only{n % 20}"} for n, text in enumerate(texts)]
    queries = [{"_id": word, "text": f"only{n} {word}"} for n, word in enumerate(words)] + [{"_id": "x", "text": "x"}]
    judged = [{"query": word, "document": f"d{n}", "grade": 1} for n, word in enumerate(words)]
    monkeypatch.setitem(feedback.READERS, "tiny", lambda data, language: (documents, queries, judged))
    row = feedback.row("tiny", tmp_path, tmp_path, rank.measured)
    assert set(row.peers) == {"anserini", "bm25"} and row.ratio == pytest.approx(0, abs=1e-9)
    assert "8 questions, of 100.0% the ten are anserini's" in row.note and 0 < row.ours <= 1
    with pytest.raises(ConfigError, match="feedback=trec: not one of"):
        feedback.row("trec", tmp_path, tmp_path, rank.measured)


def test_the_difference_of_pairs_has_an_interval() -> None:
    mean, (low, high) = difference_of_means([0.5, 0.7, 0.9, 0.6] * 20, [0.4, 0.7, 0.7, 0.6] * 20)
    assert low < mean < high and mean == pytest.approx(0.075) and low > 0
    with pytest.raises(ConfigError, match="equal length"):
        difference_of_means([1.0], [])


def test_collections_become_beir_folders_with_their_judgements(tmp_path: Path) -> None:
    _write(tmp_path / "ir_cisi/docs.jsonl.zst", [{"id": "1", "title": "T", "text": "a\u2028b", "author": "A"}])
    _write(tmp_path / "ir_cisi/queries.jsonl", [{"id": "q", "text": "What?"}, {"id": "unjudged", "text": "Why?"}])
    (tmp_path / "ir_cisi/qrels.txt").write_text("q 0 1 1\n")
    assert f"corpus.path={tmp_path / 'cisi'}" in overrides_of("cisi", tmp_path, tmp_path / "cisi")
    (asked,) = load_beir_questions(tmp_path / "cisi")
    assert (asked["id"], asked["text"], asked["relevant"]) == ("q", "What?", {"1": 1})

    passages = [{"id": f"{lang}-p", "lang": lang, "title": "A_b", "text": "Text."} for lang in ("de", "ru")]
    questions = [
        {"id": f"{lang}-q", "lang": lang, "question": lang, "answers": ["x"], "passage_id": f"{lang}-p"}
        for lang in ("de", "ru")
    ]
    _write(tmp_path / "qa_xquad/passages.jsonl.zst", passages)  # type: ignore[arg-type]
    _write(tmp_path / "qa_xquad/questions.jsonl.zst", questions)
    overrides_of("xquad-ru", tmp_path, tmp_path / "ru")
    assert json.loads((tmp_path / "ru/corpus.jsonl").read_text()) == {"_id": "ru-p", "title": "A b", "text": "Text."}
    assert [q["relevant"] for q in load_beir_questions(tmp_path / "ru")] == [{"ru-p": 1}]


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(InputError, match="RAG_HPC_DATA"):
        rank.run({})
    with pytest.raises(InputError, match=r"docs\.jsonl\.zst: not there"):
        overrides_of("cisi", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="collections=trec: not one of pydoc"):
        overrides_of("trec", tmp_path, tmp_path / "out")
