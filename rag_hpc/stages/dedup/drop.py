"""dedup.drop: the documents without their duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import KEEP_MAP, LABELS, DedupConfig, check_whole
from rag_hpc.stores.arrays import ArrayFile
from rag_hpc.stores.documents import DOCUMENTS
from rag_hpc.stores.tables import Rejects, read_table, write_table


class Drop(Stage):
    """Keeps one document of each group of duplicates."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.drop"
    version = 2
    needs = ("clean", "dedup.link")
    counts_from = "clean"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per clean unit, with the number of its first document."""
        check_whole(inputs["dedup.link"])
        clean = inputs["clean"]
        first = np.cumsum([0, *clean.rows(DOCUMENTS)])
        return [Unit(i, {"clean_unit": unit["index"], "first": int(first[i])}) for i, unit in enumerate(clean.units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet without the duplicates; rejects name the document that stays.

        With keep_all they stay too; their number is `extra.duplicates_kept`.
        """
        import pyarrow as pa

        linked, first = ctx.inputs["dedup.link"], unit.inputs["first"]
        table = read_table(ctx.inputs["clean"].file(unit.inputs["clean_unit"], DOCUMENTS))
        numbers = np.arange(first, first + table.num_rows)
        kept = ArrayFile(linked.files(LABELS)[0]).rows(first, first + table.num_rows) == numbers
        ctx.check_stop()
        if self.config.keep_all:
            write_table(out / DOCUMENTS, table)
            extra = {"duplicates_kept": float((~kept).sum())}
            return Counts(items_in=table.num_rows, items_out=table.num_rows, extra=extra)
        write_table(out / DOCUMENTS, table.filter(pa.array(kept)))
        rejects = Rejects()
        for row in gone_rows(linked.files(KEEP_MAP)[0], first, first + table.num_rows):
            stays = row["kept_id"] if row["kept_run"] is None else f"{row['kept_id']} of {row['kept_run']}"
            rejects.add(row["doc_id"], f"{row['reason']}-duplicate", stays)
        return Counts(items_in=table.num_rows, items_out=int(kept.sum()), dropped=rejects.write(out))


def gone_rows(path: Path, start: int, stop: int) -> list[dict[str, Any]]:
    """Return the rows of keep_map.parquet for the documents numbered [start, stop), from the row groups they lie in."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        spans: list[Any] = [
            file.metadata.row_group(i).column(0).statistics for i in range(file.metadata.num_row_groups)
        ]
        wanted = [i for i, span in enumerate(spans) if span.min < stop and span.max >= start]
        table = file.read_row_groups(wanted, use_threads=False)
    numbers = table.column("number").to_numpy()
    begin, end = np.searchsorted(numbers, [start, stop])
    rows: list[dict[str, Any]] = table.slice(int(begin), int(end - begin)).to_pylist()
    return rows
