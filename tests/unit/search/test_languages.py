"""Each text by the analyser of its language: what is a word, which language that is, and the same bits on any ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stagerun
from manifests import chunks_of, manifest_of
from realdata import DATA

from rag_hpc.core.comm import Comm
from rag_hpc.errors import InputError, MissingDependency
from rag_hpc.eval.bench.lexical import languages as bench
from rag_hpc.inline import same_for_any_p
from rag_hpc.search import jvm
from rag_hpc.search.languages import indexed, of_passage, of_question
from rag_hpc.search.questions import analyze_phrases
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import analyze
from rag_hpc.stages.registry import make_stage

ENGLISH = "The houses of the old town were built on both banks of the river."
GERMAN = "Die Häuser der alten Stadt wurden an beiden Ufern des Flusses gebaut."
THAI = "บ้านเก่าของเมืองถูกสร้างขึ้นทั้งสองฝั่งของแม่น้ำ"
CHINESE = "老城的房屋建在河的两岸,图书馆在学校旁边。"
MIXED = [(ENGLISH, "en"), (GERMAN, "de"), (THAI, "th"), (CHINESE, "zh"), ("Fluß und Ufer, ganz kurz", "de")] * 3
ASKED = ["Which house stands by the river?", "Welches Haus steht am Fluss?", "แม่น้ำ", "图书馆在哪里?", "zyxwv", ""]


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))


def test_scripts_without_spaces_become_runs_of_three_characters() -> None:
    assert analyze(["ภาษาไทย Lucene ดี"], "th") == [["ภาษ", "าษา", "ษาไ", "าไท", "ไทย", "lucene", "ดี"]]
    for language, text in {"lo": "ພາສາລາວ", "km": "ភាសាខ្មែរ", "my": "မြန်မာ"}.items():
        assert analyze([text, text[:2]], language) == [[text[i : i + 3] for i in range(len(text) - 2)], [text[:2]]]
        assert analyze([text], "th") == analyze([text], language) != analyze([text])
    assert analyze([CHINESE], "cjk") == analyze([CHINESE], "zh") and analyze([THAI], "thai") == analyze([THAI], "th")


def test_quoted_thai_is_found_where_it_stands_as_written() -> None:
    (phrase,) = analyze_phrases(['"ภาษาไทย"'], "th")
    assert phrase == ["\0".join(analyze(["ภาษาไทย"], "th")[0])]


@pytest.mark.parametrize(
    ("text", "spoken", "chosen"),
    [
        (ENGLISH, "en", "en"),
        (GERMAN, "en", "de"),  # a German passage of an English document
        (ENGLISH, "de", "en"),
        ("x = f(1); y[0] += 2", "de", "de"),  # what is in no language is as its document
        ("x = f(1); y[0] += 2", "unknown", "en"),
        (THAI, "unknown", "th"),
        (CHINESE, "en", "zh"),
        ("Xin chào các bạn, hôm nay trời đẹp quá", "vi", "en"),  # of which Lucene has none
        ("", "en", "en"),
    ],
)
def test_a_passage_is_in_its_own_language_or_its_document_s(text: str, spoken: str, chosen: str) -> None:
    assert of_passage(text, spoken) == chosen


@pytest.mark.parametrize(
    ("text", "known", "chosen"),
    [
        (GERMAN, ["en"], "en"),  # there is nothing else
        (GERMAN, ["en", "de"], "de"),
        (GERMAN, ["ru", "zh"], "ru"),
        ("Kubernetes 的 scheduler 怎么用", ["en", "zh"], "zh"),
        ("日本語の本", ["en", "zh"], "zh"),  # it shares the script
        ("日本語の本", ["en", "ja", "zh"], "ja"),
        ("ดี", ["en", "th"], "th"),
        ("12 34", ["en", "th"], "en"),
        ("", ["de", "en"], "de"),
    ],
)
def test_a_question_is_in_a_language_of_the_index(text: str, known: list[str], chosen: str) -> None:
    assert of_question(text, known) == chosen


def test_texts_in_english_make_the_index_that_they_always_made(tmp_path: Path) -> None:
    chunks = {"chunk": chunks_of(tmp_path / "chunk", [(ENGLISH, "en"), ("Rien ne va plus", "unknown")] * 5)}
    auto, english = (
        stagerun.run_stage(tmp_path / name, "lexical", {"analyzer": name, "num_shards": 1}, chunks)
        for name in ("auto", "en")
    )
    assert auto.output_hash == english.output_hash and indexed(auto) == indexed(english) == ["en"]
    assert auto.extra()["language.en"] == 10


def test_a_mixed_index_is_the_same_for_any_workers_and_ranks(tmp_path: Path) -> None:
    chunks = {"chunk": chunks_of(tmp_path / "chunk", MIXED)}
    settings = {"num_shards": 3, "fields": ["title"]}
    built = same_for_any_p(make_stage("lexical", settings), chunks, tmp_path / "run", ps=(1, 2))
    assert indexed(built) == ["de", "en", "th", "zh"] and built.extra()["language.de"] == 6
    unit_dir = tmp_path / "encode" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    np.save(unit_dir / "vectors.npy", np.zeros((len(MIXED), 8), dtype=np.float16))
    encoded = manifest_of(tmp_path / "encode", "encode")

    def search(comm: Comm) -> tuple[np.ndarray, np.ndarray]:
        scratch = tmp_path / f"{comm.world_size}-{comm.rank}"
        scratch.mkdir()
        searcher = Searcher(built, encoded, None, SearchSettings(depth=15), comm, scratch)
        found = searcher.search(ASKED, np.zeros((len(ASKED), 8)))
        return found.hits.get("bm25", (np.empty(0), np.empty(0)))

    (alone,) = stagerun.on_ranks(1, search)
    heads = [{row % 5 for row in ids.tolist() if row >= 0} for ids in alone[1]]
    assert heads == [{0}, {1, 4}, {2}, {3}, set(), set()]
    for world_size in (2, 3, 7):
        first, *_ = stagerun.on_ranks(world_size, search)
        assert first[0].tobytes() == alone[0].tobytes() and first[1].tobytes() == alone[1].tobytes()


def test_thai_is_found_and_no_other_language_loses() -> None:
    try:
        parts = [bench.part_of(DATA, language) for language in ("th", "ru", "zh")]
    except InputError as error:
        pytest.skip(str(error))
    auto, english = (bench.recall(parts, analyzer, 1) for analyzer in ("auto", "en"))
    assert auto["th"].mean() >= 0.9 and english["th"].mean() < 0.3
    assert auto["ru"].mean() >= english["ru"].mean() + 0.03 and auto["zh"].mean() >= english["zh"].mean()
