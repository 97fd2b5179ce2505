"""dedup.drop: the documents without their duplicates, each with an id of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.algo.dedup.ids import split_id, with_number
from rag_hpc.algo.types import Bools
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import KEEP_MAP, LABELS, REPEATS, DedupConfig, check_whole
from rag_hpc.stores.arrays import ArrayFile
from rag_hpc.stores.documents import DOCUMENTS
from rag_hpc.stores.tables import Rejects, read_table, write_table


class Drop(Stage):
    """Keeps one document of each group of duplicates."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.drop"
    version = 3
    needs = ("clean", "dedup.group", "dedup.link")
    counts_from = "clean"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per clean unit, with the number of its first document."""
        check_whole(inputs["dedup.link"])
        clean = inputs["clean"]
        first = np.cumsum([0, *clean.rows(DOCUMENTS)])
        return [Unit(i, {"clean_unit": unit["index"], "first": int(first[i])}) for i, unit in enumerate(clean.units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet without the duplicates; rejects name the document that stays.

        With keep_all they stay too; their number is `extra.duplicates_kept`. Of two documents with one id the later,
        if it is another capture of the same URL, gets "#2" or a higher number, else it is a reject duplicate-id.
        """
        import pyarrow as pa

        linked, first = ctx.inputs["dedup.link"], unit.inputs["first"]
        table = read_table(ctx.inputs["clean"].file(unit.inputs["clean_unit"], DOCUMENTS))
        numbers = np.arange(first, first + table.num_rows)
        kept = ArrayFile(linked.files(LABELS)[0]).rows(first, first + table.num_rows) == numbers
        ctx.check_stop()
        rejects, extra = Rejects(), {}
        if self.config.keep_all:
            extra = {"duplicates_kept": float((~kept).sum())}
            kept[:] = True
        else:
            for row in gone_rows(linked.files(KEEP_MAP)[0], first, first + table.num_rows):
                stays = row["kept_id"] if row["kept_run"] is None else f"{row['kept_id']} of {row['kept_run']}"
                rejects.add(row["doc_id"], f"{row['reason']}-duplicate", stays)
        repeats = _repeats(ctx.inputs["dedup.group"].files(REPEATS)[0], first, first + table.num_rows)
        if repeats:
            table = _told_apart(table, repeats, kept, rejects)
        write_table(out / DOCUMENTS, table if kept.all() else table.filter(pa.array(kept)))
        return Counts(items_in=table.num_rows, items_out=int(kept.sum()), dropped=rejects.write(out), extra=extra)


def _repeats(path: Path, first: int, stop: int) -> dict[int, int]:
    """Return row -> number of those documents numbered [first, stop) whose id stood before."""
    file = ArrayFile(path)
    rows = file.rows(file.rank_of(first, 0), file.rank_of(stop, 0))
    return {int(number) - first: int(own) for number, own in rows}


def _told_apart(table: Any, repeats: dict[int, int], kept: Bools, rejects: Rejects) -> Any:
    """Return the table with ids of their own for other captures; unset `kept` of what is no capture."""
    import pyarrow as pa

    ids, urls = (table.column(name).to_pylist() for name in ("doc_id", "url"))
    for row, number in repeats.items():
        if urls[row] and split_id(ids[row])[0] == split_id(urls[row])[0]:
            ids[row] = with_number(ids[row], number)
        elif kept[row]:
            kept[row] = False
            rejects.add(ids[row], "duplicate-id", urls[row])
    return table.set_column(table.schema.get_field_index("doc_id"), table.schema.field("doc_id"), pa.array(ids))


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
