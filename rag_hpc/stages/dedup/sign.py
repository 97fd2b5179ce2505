"""dedup.sign: each document's band keys, the hash of its text, and what candidate pairs are judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import (
    BANDS,
    NO_WORDS,
    SHINGLES,
    SIGNATURES,
    SIGNED,
    DedupConfig,
    VerifyBy,
    band_name,
    older_generations,
    pack_sets,
)
from rag_hpc.stores.documents import DOCUMENTS, document_batches

DOCUMENTS_AT_ONCE = 2048


class Sign(Stage):
    """Computes what the later steps read in place of the text."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.sign"
    version = SIGNED
    needs = ("clean",)
    counts_from = "clean"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per clean unit; ConfigError when an earlier run cannot be compared with."""
        older_generations(self.config)
        return [Unit(i, {"clean_unit": unit["index"]}) for i, unit in enumerate(inputs["clean"].units)]

    def setup(self, ctx: Context) -> None:
        """Compile, or load, the kernels: that is no work on a document."""
        import pyarrow as pa

        self._sign(pa.record_batch([pa.array(["a"]), pa.array(["a few words"])], names=["doc_id", "text"]))

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write bands.parquet (doc_id, exact, a column of keys a band) and shingles.npy or signatures.npy."""
        import pyarrow as pa

        path = ctx.inputs["clean"].file(unit.inputs["clean_unit"], DOCUMENTS)
        parts = []
        for batch in document_batches(path, ("doc_id", "text"), DOCUMENTS_AT_ONCE):
            ctx.check_stop()
            parts.append(self._sign(batch))
        tables, compared, sizes = zip(*parts, strict=True)
        table = pa.concat_tables(tables)
        # a band is read on its own and its keys are random: stored as they are, they lie in one place of the file
        _write_plain(out / BANDS, table)
        if self.config.verify is VerifyBy.exact:
            np.save(out / SHINGLES, pack_sets(np.concatenate(compared), np.concatenate(sizes)), allow_pickle=False)
        else:
            np.save(out / SIGNATURES, np.concatenate(compared), allow_pickle=False)
        return Counts(items_in=table.num_rows, items_out=table.num_rows)

    def _sign(self, batch: Any) -> tuple[Any, Any, Any]:
        """Return (table of bands.parquet, shingles or signatures, sizes of the sets of shingles)."""
        import pyarrow as pa

        from rag_hpc.algo.dedup import sketch
        from rag_hpc.algo.dedup.minhash import band_keys

        config, data = self.config, bytes_and_ends(batch.column("text"))
        sets = config.verify is VerifyBy.exact
        sketched = sketch.sketch(*data, num_perm=config.num_perm, ngram=config.ngram, family=config.family, sets=sets)
        keys = band_keys(sketched.signatures_NK, *config.bands())
        keys[sketched.num_shingles_N == 0] = NO_WORDS
        columns = {"doc_id": batch.column("doc_id"), "exact": pa.array(sketched.exact_N)}
        columns |= {band_name(band): pa.array(keys[:, band]) for band in range(keys.shape[1])}
        compared = sketched.flat_S if sets else sketched.signatures_NK
        return pa.table(columns), compared, np.diff(sketched.set_ends_N, prepend=0)


def bytes_and_ends(texts: Any) -> tuple[Any, Any]:
    """Return an Arrow string array as its bytes and the end of each string, without copying the text."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    if data is None or not len(texts):
        return np.empty(0, dtype=np.uint8), np.zeros(len(texts), dtype=np.int64)
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]], ends[1:] - ends[0]


def _write_plain(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    codecs: Any = {name: "zstd" if name == "doc_id" else "none" for name in table.column_names}
    pq.write_table(
        table.combine_chunks(),
        path,
        row_group_size=max(1, table.num_rows),
        compression=codecs,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        version="2.6",
    )
