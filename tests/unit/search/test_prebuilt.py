"""An index that plain Anserini made is taken into a run; one of ours opens in plain Pyserini."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stagerun

from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError, InputError, MissingDependency, UnitFailed
from rag_hpc.search import jvm, lucene
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import ChunkStore

TEXTS = ["a stable sort keeps equal items", "sockets and streams", "of the"]


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


def anserini(folder: Path, documents: list[tuple[str, str]], *more: str) -> Path:
    """Return the index that IndexCollection makes of the documents, with 2 threads of 2 files."""
    home, jar = jvm.require_java()
    (folder / "json").mkdir(parents=True)
    for part in range(2):
        lines = [json.dumps({"id": name, "contents": text}) + "\n" for name, text in documents[part::2]]
        (folder / f"json/{part}.jsonl").write_text("".join(lines))
    words = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "2"]
    words += ["-input", str(folder / "json"), "-index", str(folder / "index"), *more]
    command = [str(home / "bin/java"), "-cp", str(jar), "io.anserini.index.IndexCollection", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder / "index"


@pytest.fixture(scope="module")
def passages(chain: stagerun.Chain) -> list[tuple[str, str]]:
    """Ids and texts, the last passage first."""
    store = ChunkStore(chain.out["chunk"])
    return list(zip(store.column("chunk_id"), store.indexed_texts(0, len(store)), strict=True))[::-1]


@pytest.fixture(scope="module")
def theirs(passages: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anserini(tmp_path_factory.mktemp("theirs"), passages, "-storePositions", "-storeDocvectors")


def bm25_of(chain: stagerun.Chain, lexical: Manifest, scratch: Path, comm: Comm) -> tuple[np.ndarray, np.ndarray]:
    scratch /= f"{comm.world_size}-{comm.rank}"
    scratch.mkdir(parents=True)
    vectors = np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)
    searcher = Searcher(lexical, chain.out["encode"], None, SearchSettings(depth=200), comm, scratch)
    return searcher.search(TEXTS, vectors).hits.get("bm25", (np.empty(0), np.empty(0)))


def test_anserini_s_index_gives_a_run_the_hits_of_its_own(chain: stagerun.Chain, theirs: Path, tmp_path: Path) -> None:
    built = chain.again("lexical", tmp_path / "run", prebuilt=str(theirs), positions=True, term_vectors=True)
    assert len(built.units) == 1 and built.total("items_in") == chain.out["lexical"].total("items_in")
    spans = np.load(built.files("spans.npy")[0])
    assert not (np.diff(spans[:, 0]) > 0).all() and sorted(spans[:, 0]) == list(range(len(spans)))  # in another order
    ours = bm25_of(chain, chain.out["lexical"], tmp_path / "ours", SerialComm())
    found = bm25_of(chain, built, tmp_path / "found", SerialComm())
    assert ours[0].tobytes() == found[0].tobytes()
    for scores, own, others in zip(ours[0], ours[1], found[1], strict=True):
        order = [np.lexsort((ids, -scores)) for ids in (own, others)]  # equal scores stand in each index's order
        assert own[order[0]].tolist() == others[order[1]].tolist()
    ranked, *_ = stagerun.on_ranks(3, lambda comm: bm25_of(chain, built, tmp_path / "ranks", comm))
    assert ranked[0].tobytes() == found[0].tobytes() and ranked[1].tobytes() == found[1].tobytes()


def test_whole_documents_are_known_by_their_doc_id(chain: stagerun.Chain, tmp_path: Path) -> None:
    own = chain.again("lexical", tmp_path / "own", whole_documents=True, num_shards=2)
    rows = {row["doc_id"]: row for row in chain.table("dedup.drop", "documents.parquet")}
    kept = dict.fromkeys(ChunkStore(chain.out["chunk"]).column("doc_id"))
    texts = [(name, f"{rows[name]['title']}\n{rows[name]['text']}") for name in kept]
    built = chain.again(
        "lexical", tmp_path / "run", whole_documents=True, prebuilt=str(anserini(tmp_path / "their", texts))
    )
    ours, found = (bm25_of(chain, one, tmp_path / name, SerialComm()) for one, name in ((own, "1"), (built, "2")))
    assert ours[0].shape == found[0].shape and (found[1][:2, 0] >= 0).all()
    np.testing.assert_array_equal(ours[1][:2, 0], found[1][:2, 0])


def test_an_index_of_other_documents_is_refused_by_name(
    chain: stagerun.Chain, passages: list[tuple[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    lucene.build_index([("stranger", "text"), *passages[:-2], passages[0]], folder)
    told = rf"1 are none of the run's {len(passages)} \(stranger\), and 2 .*{passages[-1][0]}.* 1 ids come twice"
    with pytest.raises((InputError, UnitFailed), match=told):
        chain.again("lexical", tmp_path / "run", prebuilt=str(folder))


def test_what_an_index_lacks_is_told(chain: stagerun.Chain, passages: list[tuple[str, str]], tmp_path: Path) -> None:
    lucene.build_index(passages, tmp_path / "plain")
    for settings, told in (
        ({"positions": True, "term_vectors": True}, r"lacks positions in contents .* document vectors"),
        ({"fields": ["title"]}, r"lacks the field title"),
    ):
        with pytest.raises((InputError, UnitFailed), match=told):
            chain.again("lexical", tmp_path / "run", prebuilt=str(tmp_path / "plain"), **settings)
    with pytest.raises(ConfigError, match="no Lucene index is there"):
        make_stage("lexical", {"prebuilt": str(tmp_path)}).plan(chain.out, tmp_path)


def test_an_index_that_changed_since_the_plan_is_refused(chain: stagerun.Chain, theirs: Path, tmp_path: Path) -> None:
    stage = make_stage("lexical", {"prebuilt": str(theirs)})
    (unit,) = stage.plan(chain.out, tmp_path)
    unit.inputs["prebuilt"] = "0" * 64
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="changed since the plan was made"):
        stage.run(unit, tmp_path / "out", stagerun.context(chain.out, tmp_path))


def test_ours_opens_in_plain_pyserini(tmp_path: Path) -> None:
    try:
        _, jar = jvm.require_java()
    except MissingDependency as error:
        pytest.skip(str(error))
    homes = [Path(os.environ.get("JAVA_HOME", "")), *sorted(Path("/usr/lib/jvm").glob("*"))]
    fit = [home for home in homes if _version(home) >= 21 and "jdk.incubator.vector" in _modules(home)]
    if not fit:
        pytest.skip(f"no JDK of 21 or later with jdk.incubator.vector, which {jar.name}'s Python package asks for")
    lucene.build_index([("a", "the quick fox"), ("b", "fox fox and dog"), ("c", "cat")], tmp_path / "index")
    script = (
        "import sys, json\nfrom pyserini.search.lucene import LuceneSearcher\n"
        "hits = LuceneSearcher(sys.argv[1]).search('foxes', 5)\nprint(json.dumps([[h.docid, h.score] for h in hits]))"
    )
    env = {**os.environ, "JAVA_HOME": str(fit[0]), "PATH": f"{fit[0]}/bin:{os.environ['PATH']}", "OPENAI_API_KEY": "no"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=tmp_path,
        timeout=500,
    )
    assert [name for name, _ in json.loads(run.stdout.splitlines()[-1])] == ["b", "a"]


def _modules(home: Path) -> str:
    return subprocess.run([home / "bin/java", "--list-modules"], capture_output=True, text=True, check=True).stdout


def _version(home: Path) -> int:
    told = (home / "release").read_text() if (home / "release").is_file() else ""
    return int(told.split('JAVA_VERSION="')[1].split(".")[0].strip('"')) if "JAVA_VERSION" in told else 0
