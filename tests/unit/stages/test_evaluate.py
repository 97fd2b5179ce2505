"""evaluate: measures as ir_measures and a pencil compute them, over documents in their ranked order."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.stages import evaluate
from rag_hpc.stages.registry import make_stage

ir_measures = pytest.importorskip("ir_measures")
MEASURES = ["nDCG@10", "RR@10", "R@10", "R@100", "AP"]


def _query(query_id: str, **grades: int) -> dict[str, Any]:
    return {"query_id": query_id, "relevant": json.dumps(grades)}


def _part(chain: stagerun.Chain, part: str) -> dict[str, Any]:
    for path in chain.out["evaluate"].files("metrics.json"):
        value: dict[str, Any] = json.loads(path.read_bytes())
        if value["part"] == part:
            return value
    raise AssertionError(part)


def test_measures_of_a_small_ranking_by_hand() -> None:
    run = {"a": [("x", 3.0), ("y", 2.0), ("z", 1.0)], "b": [("x", 1.0)]}
    queries = [_query("a", y=1, z=2, w=1), _query("b", q=1)]
    found = evaluate.judge_ranking(run, queries, ["RR", "R@2", "nDCG@3", "AP"])
    dcg, ideal = 1 / math.log2(3) + 2 / 2, 2 + 1 / math.log2(3) + 1 / 2
    want = {"RR": 0.5 / 2, "R@2": (1 / 3) / 2, "nDCG@3": dcg / ideal / 2, "AP": (1 / 2 + 2 / 3) / 3 / 2}
    assert found == pytest.approx(want, abs=1e-6) and list(found) == sorted(want)


@pytest.mark.parametrize("part", ["bm25", "dense", "fused", "ann"])
def test_measures_of_the_chain_are_ir_measures_own(part: str, chain: stagerun.Chain) -> None:
    rows = chain.table("retrieve.search", "ann.parquet" if part == "ann" else "hits.parquet")
    qrels, scored = {}, {}
    for query in chain.table("retrieve.queries", "queries.parquet"):
        if grades := json.loads(query["relevant"]):
            qrels[query["query_id"]] = grades
    for row in rows:
        if row["method"] == part and row["query_id"] in qrels:
            best = scored.setdefault(row["query_id"], {})
            best.setdefault(row["doc_id"], 1.0 / row["rank"])
    wanted = [ir_measures.parse_measure(name) for name in MEASURES]
    want = {str(m): value for m, value in ir_measures.calc_aggregate(wanted, qrels, scored).items()}
    got = _part(chain, part)["metrics"]
    assert {name: got[name] for name in want} == pytest.approx(want, abs=1e-6)
    assert 0.5 < got["nDCG@10"] < 1


def test_run_is_trec_and_parses_back_to_the_same_measures(chain: stagerun.Chain) -> None:
    for unit in chain.out["evaluate"].units:
        folder = chain.out["evaluate"].unit_dir(unit["index"])
        if not (folder / "run.trec").exists():
            continue
        part = json.loads((folder / "metrics.json").read_bytes())
        lines = (folder / "run.trec").read_text().splitlines()
        assert all(len(line.split(" ")) == 6 for line in lines)
        assert {line.split()[5] for line in lines} == {f"rag_hpc.{part['part']}"}
        run = [ir_measures.ScoredDoc(s[0], s[2], -float(s[3])) for s in map(str.split, lines)]
        qrels = {q["query_id"]: json.loads(q["relevant"]) for q in chain.table("retrieve.queries", "queries.parquet")}
        judged = {q: grades for q, grades in qrels.items() if grades}
        found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)
        assert part["metrics"]["nDCG@10"] == pytest.approx(found[ir_measures.nDCG @ 10], abs=1e-6)


def test_titles_as_queries_are_labelled_in_every_file(
    front: stagerun.Chain, chain: stagerun.Chain, tmp_path: Path
) -> None:
    titles = stagerun.run_stage(tmp_path / "t", "retrieve.queries", {"num_known_items": 3}, front.out)
    inputs = {**chain.out, "retrieve.queries": titles}
    label = "titles that stand in for questions"
    answers, bm25 = (stagerun.run_alone("evaluate", {}, inputs, tmp_path, index) for index in (0, 1))
    assert [json.loads((out / "metrics.json").read_text())["queries"] for out in (answers, bm25)] == [label, label]
    assert all(json.loads(line)["query_is"] == label for line in (answers / "answers.jsonl").read_text().splitlines())
    assert all(line.endswith(" rag_hpc.bm25.stand-ins") for line in (bm25 / "run.trec").read_text().splitlines())


def test_values_by_query_have_the_mean_that_is_stated(chain: stagerun.Chain) -> None:
    value = _part(chain, "bm25")
    assert "queries" not in value and set(value["by_query"]) == set(MEASURES)
    for measure, values in value["by_query"].items():
        assert len(values) == 8
        assert sum(values.values()) / 8 == pytest.approx(value["metrics"][measure], abs=1e-5)


def test_blanks_in_ids_cannot_break_a_trec_line() -> None:
    text = evaluate.trec_lines({"q 1": [("my doc\t1.html", 1.25), ("b", -0.5)]}, "bm25")
    assert text == "q_1 Q0 my_doc_1.html 1 1.250000 rag_hpc.bm25\nq_1 Q0 b 2 -0.500000 rag_hpc.bm25\n"


def test_document_stands_where_its_best_passage_does() -> None:
    rows = [
        {"query_id": "q", "rank": rank, "doc_id": doc_id, "score": score}
        for rank, doc_id, score in [(3, "a", 1.0), (1, "b", 3.0), (2, "a", 2.0), (4, "c", 1.0)]
    ]
    assert evaluate.by_document(rows) == {"q": [("b", 3.0), ("a", 2.0), ("c", 1.0)]}


def test_equal_scores_keep_their_rank() -> None:
    run = {"q": [("z", 1.0), ("a", 1.0)]}
    assert evaluate.judge_ranking(run, [_query("q", z=1)], ["RR"]) == {"RR": 1.0}
    assert evaluate.judge_ranking({"q": run["q"][::-1]}, [_query("q", z=1)], ["RR"]) == {"RR": 0.5}


def test_question_without_hits_counts_as_zero_and_without_judgements_not_at_all() -> None:
    run = {"a": [("x", 1.0)], "c": [("x", 1.0)]}
    queries = [_query("a", x=1), _query("b", x=1), _query("c")]
    assert evaluate.judge_ranking(run, queries, ["RR", "R@10"]) == {"RR": 0.5, "R@10": 0.5}
    assert evaluate.judge_ranking(run, [_query("c")], ["RR"]) == {}


def test_recall_against_exact_search_is_over_the_k_best() -> None:
    def hits(query_id: str, *ordinals: int) -> list[dict[str, Any]]:
        return [{"query_id": query_id, "rank": rank, "ordinal": o} for rank, o in enumerate(ordinals, 1)]

    exact = [*hits("a", 1, 2, 3), *hits("b", 4, 5, 6)]
    found = [*hits("a", 2, 9, 1), *hits("b", 5, 4)]
    assert evaluate.shares_found(found, exact, 2) == [0.5, 1.0]
    assert evaluate.judge_index(found, exact, 2)["recall@2_vs_exact"] == 0.75
    assert evaluate.shares_found(found, exact, 3) == [2 / 3, 2 / 3]
    assert evaluate.judge_index([], exact, 2)["recall@2_vs_exact"] == 0.0
    assert evaluate.judge_index(exact, exact, 1)["recall@1_vs_exact"] == 1.0


def test_recall_has_an_interval_over_the_questions_that_were_searched_exactly() -> None:
    def hits(query_id: str, ordinal: int) -> dict[str, Any]:
        return {"query_id": query_id, "rank": 1, "ordinal": ordinal}

    found = [hits(str(n), 0) for n in range(50)]
    judged = evaluate.judge_index(found, [hits(str(n), int(n < 4)) for n in range(40)], 1)
    assert judged["recall@1_vs_exact"] == 0.9 and judged["recall@1_vs_exact.judged"] == 40
    assert 0.75 < judged["recall@1_vs_exact.low"] < 0.9 < judged["recall@1_vs_exact.high"] < 1
    assert evaluate.judge_index(found, [], 1) == {}


def test_vector_index_is_judged_against_exact_search(chain: stagerun.Chain) -> None:
    assert _part(chain, "ann")["metrics"]["recall@10_vs_exact"] >= 0.9
    assert "recall@10_vs_exact" not in _part(chain, "dense")["metrics"]


def _answer(answer: str, short: str, gold: list[str], supported: list[bool], found: bool = True) -> dict[str, Any]:
    cited = [{"citation": n, "supported": s} for n, s in enumerate(supported, 1)]
    return {
        "query_id": "q",
        "question": "?",
        "answer": answer,
        "short": short,
        "found": found,
        "gold": json.dumps(gold),
        "citations": json.dumps(cited),
    }


def test_answers_are_judged_only_where_there_is_a_gold_answer() -> None:
    rows = [
        _answer("The cat sat down.", "cat", ["the cat"], [True, False]),
        _answer("A dog ran.", "big dog", ["dog"], [True]),
        _answer("not found", "not found", [], [], found=False),
    ]
    metrics, lines = evaluate.judge_answers(rows)
    assert metrics == {
        "f1": round((1 + 2 / 3) / 2, 6),
        "em": 0.5,
        "f1_sentence": round((0.5 + 2 / 3) / 2, 6),
        "citation_precision": 0.75,
        "citation_recall": 0.75,
        "answerable_answered": 1.0,
        "answered": round(2 / 3, 6),
    }
    assert [line["f1"] for line in lines] == [1.0, pytest.approx(2 / 3), None]
    assert evaluate.judge_answers([]) == ({"answered": 0.0}, [])


def test_a_question_that_is_known_to_have_no_answer_is_to_be_refused() -> None:
    rows = [_answer(NOT_FOUND, NOT_FOUND, [""], [], found=False), _answer("A dog [1].", "dog", [""], [True])]
    metrics, lines = evaluate.judge_answers(rows)
    assert metrics["unanswerable_refused"] == metrics["f1"] == 0.5 and "answerable_answered" not in metrics
    assert [line["unanswerable_refused"] for line in lines] == [1.0, 0.0]


def test_sentences_without_a_citation_that_bears_them_out_lower_recall() -> None:
    text = "The cat sat down [1][2]. It purred [3]. It is a cat."
    metrics, _ = evaluate.judge_answers([_answer(text, "cat", ["cat"], [False, True, False])])
    assert metrics["citation_recall"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["citation_precision"] == pytest.approx(1 / 3, abs=1e-6)


def test_nuggets_are_looked_for_in_the_answers_and_their_file_may_not_change(
    chain: stagerun.Chain, tmp_path: Path
) -> None:
    path = tmp_path / "nuggets.jsonl"
    row = next(row for row in chain.table("generate", "answers.parquet") if row["query_id"] == "q2")
    nuggets = [{"text": row["answer"], "importance": "vital"}, {"text": "zebra xylophone", "importance": "okay"}]
    path.write_text(json.dumps({"qid": "q2", "nuggets": nuggets}))
    settings = {**chain.settings["evaluate"], "nuggets": str(path)}
    out = stagerun.run_alone("evaluate", settings, chain.out, tmp_path)
    metrics = json.loads((out / "metrics.json").read_bytes())["metrics"]
    assert (metrics["nuggets_vital"], metrics["nuggets_all"]) == (1.0, 0.5)
    stage = make_stage("evaluate", settings)
    unit = stage.plan(chain.out, tmp_path)[0]
    path.write_text(json.dumps({"qid": "q2", "nuggets": nuggets[:1]}))
    with pytest.raises(InputError, match="changed since the plan was made"):
        stage.run(unit, tmp_path, stagerun.context(chain.out, tmp_path))


def test_lines_of_answers_are_json_in_the_order_of_the_questions(chain: stagerun.Chain) -> None:
    (path,) = chain.out["evaluate"].files("answers.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["query_id"] for line in lines] == [f"q{n}" for n in range(8)] + ["nobody"]
    assert lines[-1]["f1"] is None and lines[0]["citation_precision"] == 1.0
    metrics = _part(chain, "answers")["metrics"]
    assert metrics["answered"] == round(8 / 9, 6)
    assert metrics["f1"] == pytest.approx(sum(line["f1"] for line in lines[:-1]) / 8, abs=1e-6)


@pytest.mark.parametrize("name", ["nDCG@ten", "nDCQ@10", "", "P", "R", "os.system('x')"])
def test_measure_that_cannot_be_computed_is_refused_at_the_plan(name: str, chain: stagerun.Chain) -> None:
    with pytest.raises(ConfigError, match=r"stage.evaluate.measures: .*try nDCG@10"):
        make_stage("evaluate", {"measures": ["AP", name]}).plan(chain.out, chain.run_dir)


def test_units_that_only_some_layouts_have_come_last(chain: stagerun.Chain) -> None:
    parts = [u.inputs["part"] for u in make_stage("evaluate", {}).plan(chain.out, chain.run_dir)]
    assert parts == ["answers", "bm25", "dense", "fused", "ann"]
