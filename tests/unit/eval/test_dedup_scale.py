"""The benchmark of dedup: what it generates, how it counts pairs, and that its parts run on a little."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.dedup import corpus, dedup, memory, scale
from rag_hpc.eval.bench.dedup.given import given_documents, in_units, run_dedup
from rag_hpc.eval.bench.dedup.pairs import found_pairs, precision_and_recall


def test_documents_are_the_same_each_time_and_a_fifth_are_planted() -> None:
    documents = corpus.documents(400, None)
    assert documents == corpus.documents(400, None) != corpus.documents(400, None, seed=1)
    lengths = [len(text.split()) for _, text in documents]
    assert 150 < sum(lengths) / len(lengths) < 300
    texts = [text for _, text in documents]
    assert 5 < len(texts) - len(set(texts)) < 45


def test_a_part_that_is_not_there_is_refused_with_all_that_are() -> None:
    with pytest.raises(ConfigError, match="no part 'foo'; known: kernel, peer, pairs, memory, estimate"):
        dedup.run({"parts": "kernel,foo"})


def test_near_copies_are_alike_and_no_two_are_equal() -> None:
    texts = [text.split() for _, text in corpus.near_copies(500, None)]
    assert len({tuple(words) for words in texts}) == 500
    likeness = [sum(a == b for a, b in zip(words, texts[0], strict=False)) / len(texts[0]) for words in texts]
    assert 180 < sum(value > 0.98 for value in likeness) < 320  # of one of two texts, all but two words
    assert corpus.near_copies(50, None) == corpus.near_copies(50, None)


def test_edits_change_a_text_and_never_empty_it() -> None:
    rng = random.Random(0)
    assert all(corpus.edited("one two", rng).split() for _ in range(200))


def test_pairs_count_copies_of_both_sides(tmp_path: Path) -> None:
    text = " ".join(f"w{n}" for n in range(100))
    rows = [("a", text), ("b", text), ("c", text + " more"), ("d", text + " more"), ("e", "something else entirely")]
    found = found_pairs(run_dedup(tmp_path / "run", given_documents(tmp_path / "run", in_units(rows, 2)), {}))
    assert found == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    wanted = {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"), ("a", "e"), ("b", "e")}
    assert precision_and_recall(found, list("abcde"), wanted) == (1.0, 0.75)


def test_the_estimate_scales_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAG_HPC_DATA", str(tmp_path))
    rows = {row.name: row for row in scale.run({"parts": "estimate", "rate_documents": "300"})}
    rates = [row.ours for name, row in rows.items() if name.startswith("rate of")]
    assert len(rates) == 5
    assert rows["1e9 documents, work"].ours == pytest.approx(sum(1e9 / rate for rate in rates) / 3600)
    assert 500 < rows["1e9 documents, disk"].ours < 5000
    assert rows["1e9 documents, files"].ours < 100_000


def test_memory_of_each_process_is_noted(tmp_path: Path) -> None:
    documents = given_documents(tmp_path / "given", in_units(corpus.documents(60, None), 20))
    found = {"clean": documents}
    peaks = memory.dedup_peaks(tmp_path / "run", found, {}, p=1)
    assert list(peaks) == ["dedup.sign", "dedup.group", "dedup.verify", "dedup.link", "dedup.drop"] == list(found)[1:]
    linked = memory.linked_peak(tmp_path / "again", found, p=1)
    assert all(30 << 20 < peak < 2 << 30 for peak in (*peaks.values(), linked))


def test_memory_of_an_index_grows_with_its_documents(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    few, many = (
        given_documents(tmp_path / f"given-{num}", in_units(corpus.documents(num, None), 500)) for num in (20, 3000)
    )
    grown = memory.index_peak(tmp_path / "many", many) - memory.index_peak(tmp_path / "few", few)
    assert grown > 3000 * 9 * 50  # bytes: an entry in each of nine tables


@pytest.mark.parametrize(
    ("options", "words"),
    [({"parts": "speed"}, "known: peer, pairs, memory, estimate"), ({"document": "1"}, "no option 'document'")],
)
def test_wrong_options_list_the_known_ones(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scale.run(options)
