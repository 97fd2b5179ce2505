"""Shards by the value of a field: the hits of the unpartitioned search, of the shards that a filter names alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stagerun
from manifests import chunks_of, manifest_of

from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.inline import same_for_any_p
from rag_hpc.search import searcher
from rag_hpc.search.filters import allowed
from rag_hpc.search.indexes import Shards as VectorShards
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import Shards
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores import partitions
from rag_hpc.stores.chunks import ChunkStore

pytest.importorskip("faiss")
WORDS = "cat dog fish bird tree house river stone cloud fire road ship moon star wind grass".split()
ROWS = [
    (
        " ".join(WORDS[(n * n + m) % len(WORDS)] for m in range(1 + n % 4)),
        ("south", "north", "south", "")[n * 7 % 11 % 4],
    )
    for n in range(240)  # of few texts, so that equal scores abound
]
ASKED = ["cat dog", "fish", "ship moon road", "zyxwv", "grass cat cat"]
FILTERS = ["", "lang == 'north'", "lang in ['north', 'west'] or lang == ''", "lang != 'south' and start == 0"]
DEPTH = 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("inputs")
    unit_dir = folder / "encode" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((len(ROWS), 16))
    rows[1::2] = rows[::2]  # equal ones too
    np.save(unit_dir / "vectors.npy", rows.astype(np.float16))
    encoded = manifest_of(folder / "encode", "encode")
    for unit in encoded.units:
        unit.update(items_in=len(ROWS), items_out=len(ROWS), dropped={}, extra={})
    return {"chunk": chunks_of(folder / "chunk", ROWS, per_unit=70), "encode": encoded}


def test_shards_are_of_one_value_and_no_larger_than_an_even_share(inputs: dict[str, Manifest]) -> None:
    chunks = ChunkStore(inputs["chunk"])
    order, shards = partitions.ordinals_by(chunks, "lang"), partitions.partitions(chunks, "lang", 2)
    assert sorted(order.tolist()) == list(range(len(ROWS)))
    assert [shard["start"] for shard in shards[1:]] + [len(ROWS)] == [shard["stop"] for shard in shards]
    for shard in shards:
        held = order[shard["start"] : shard["stop"]].tolist()
        assert held == sorted(held) and len(held) <= len(ROWS) // 2
        assert {ROWS[at][1] for at in held} == {shard["value"]}
    assert [shard["value"] for shard in shards] == ["", "north", "south", "south"]
    assert {shard["value"] for shard in partitions.partitions(chunks, "num_tokens", 2)} == {"9"}


@pytest.fixture(scope="module")
def built(inputs: dict[str, Manifest], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Manifest]:
    """Indexes by stage and by what their shards are made by."""
    folder, found = tmp_path_factory.mktemp("built"), {}
    train = {"num_lists": 4, "num_probes": 2}
    trained = stagerun.chain_or_skip(lambda: stagerun.run_stage(folder, "vectors.train", train, inputs))
    for by, ps in {"": (1,), "lang": (1, 2)}.items():
        for name in ("lexical", "vectors.build"):
            stage = make_stage(name, {"num_shards": 2, "partition_by": by})
            found[name, by] = same_for_any_p(stage, {**inputs, "vectors.train": trained}, folder / f"{name}{by}", ps=ps)
    return found


def test_hits_are_those_of_the_unpartitioned_search(
    inputs: dict[str, Manifest],
    built: dict[tuple[str, str], Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(searcher, "UP_TO", 0)  # or so few would be searched exactly
    vectors = np.random.default_rng(1).standard_normal((len(ASKED), 16)).astype(np.float32)

    def search(comm: Comm, by: str, text: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        scratch = tmp_path / f"{by}-{comm.world_size}-{comm.rank}-{FILTERS.index(text)}"
        scratch.mkdir()
        parts = built["lexical", by], inputs["encode"], built["vectors.build", by]
        one = Searcher(*parts, SearchSettings(depth=DEPTH), comm, scratch)
        one.restrict(allowed(ChunkStore(inputs["chunk"]), text) if text else None)
        return dict(one.search(ASKED, vectors).hits)

    for text in FILTERS:
        want, *_ = stagerun.on_ranks(1, lambda comm, text=text: search(comm, "", text))
        assert (want["bm25"][1][0] >= 0).all() and (want["ann"][1] >= 0).any()
        for world_size in (1, 3, 7):
            found, *_ = stagerun.on_ranks(world_size, lambda comm, text=text: search(comm, "lang", text))
            for method, (scores, ids) in want.items():
                assert found[method][1].tolist() == ids.tolist(), (text, world_size, method)
                assert found[method][0].tobytes() == scores.tobytes()


def test_only_the_shards_that_a_filter_names_are_scanned(
    inputs: dict[str, Manifest],
    built: dict[tuple[str, str], Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(searcher, "UP_TO", 0)
    parts = built["lexical", "lang"], inputs["encode"], built["vectors.build", "lang"]
    one = Searcher(*parts, SearchSettings(depth=DEPTH), SerialComm(), tmp_path)
    mask = allowed(ChunkStore(inputs["chunk"]), "lang == 'north'")
    one.restrict(mask)
    scanned: list[int] = []
    asked: list[VectorShards] = []
    top, shortlist = Shards.top, VectorShards.shortlist
    monkeypatch.setattr(Shards, "top", lambda self, *a: scanned.append(self.max_doc) or top(self, *a))
    monkeypatch.setattr(VectorShards, "shortlist", lambda self, *a: asked.append(self) or shortlist(self, *a))
    one.search(ASKED, np.ones((len(ASKED), 16)))
    assert set(scanned) == {int(mask.sum())} and len(asked) == 1


def test_what_makes_no_shards_is_refused(inputs: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = ChunkStore(inputs["chunk"])
    with pytest.raises(ConfigError, match=r"no such field; they have chunk_id, .*stage.chunk.fields={region: string}"):
        partitions.partitions(chunks, "region", 2)
    monkeypatch.setattr(partitions, "MOST", 100)
    with pytest.raises(ConfigError, match="240 values, at most 100"):
        partitions.partitions(chunks, "chunk_id", 2)
    for name, settings in (("lexical", {"whole_documents": True}), ("vectors.build", {"prebuilt": "x"})):
        with pytest.raises(ConfigError, match="partition_by"):
            make_stage(name, {"partition_by": "lang", **settings})
