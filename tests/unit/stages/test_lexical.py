"""lexical: shards over consecutive chunks, whose bytes depend on the chunks alone."""

from __future__ import annotations

import tarfile
from pathlib import Path

import stagerun

from rag_hpc.inline import same_for_any_p
from rag_hpc.search import lucene
from rag_hpc.search.shards import Shards
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import ChunkStore


def test_two_builds_have_the_same_bytes(chain: stagerun.Chain, tmp_path: Path) -> None:
    # all shards are built again by other workers in test_contract; this names the file when one differs
    out = stagerun.run_alone("lexical", chain.settings["lexical"], chain.out, tmp_path, index=1)
    committed = chain.out["lexical"].unit_dir(1) / "index.tar"
    with tarfile.open(committed) as one, tarfile.open(out / "index.tar") as two:
        names = one.getnames()
        assert len(names) > 3 and two.getnames() == names
        differ = [name for name in names if _data(one, name) != _data(two, name)]
    assert not differ
    assert (out / "index.tar").read_bytes() == committed.read_bytes()


def _data(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    assert stream is not None
    return stream.read()


def test_document_i_of_a_shard_is_the_chunk_with_its_ordinal(chain: stagerun.Chain, tmp_path: Path) -> None:
    first = 0
    for unit in chain.out["lexical"].units:
        tar = chain.out["lexical"].checked(unit["index"], "index.tar")
        shard = Shards([lucene.unpack(tar, tmp_path / str(unit["index"]))])
        assert shard.ids(range(shard.max_doc)) == [str(first + i) for i in range(unit["items_out"])]
        first += shard.max_doc
        shard.close()
    assert first == len(ChunkStore(chain.out["chunk"])) == chain.out["lexical"].total("items_in")


def test_heading_is_indexed_with_the_passage(chain: stagerun.Chain, tmp_path: Path) -> None:
    shard = Shards([lucene.unpack(chain.out["lexical"].checked(0, "index.tar"), tmp_path / "0")])
    rows = chain.table("chunk", "chunks.parquet")[: shard.max_doc]
    in_text = sum("guide" in row["text"].lower() for row in rows)
    in_heading = sum("guide" in row["heading"].lower() for row in rows)
    assert in_text == 0 and shard.df(["guid"]) == {"guid": in_heading} and in_heading > 0
    shard.close()


def test_shards_are_even_and_never_more_than_chunks(chain: stagerun.Chain, tmp_path: Path) -> None:
    num_chunks = len(ChunkStore(chain.out["chunk"]))
    units = make_stage("lexical", {"num_shards": 10_000}).plan(chain.out, tmp_path)
    assert [u.inputs for u in units] == [{"start": i, "stop": i + 1} for i in range(num_chunks)]
    sizes = [u["items_in"] for u in chain.out["lexical"].units]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 1


def test_heap_is_no_part_of_the_output(chain: stagerun.Chain) -> None:
    assert "heap_mib" not in chain.out["lexical"].config


def test_positions_vectors_and_fields_have_the_same_bytes_whoever_builds(chain: stagerun.Chain, tmp_path: Path) -> None:
    settings = {"fields": ["title", "heading"], "positions": True, "term_vectors": True, "num_shards": 2}
    same_for_any_p(make_stage("lexical", settings), chain.out, tmp_path, ps=(1, 2))
