"""`rag-hpc bench dedup_scale`: all steps of dedup beside datatrove's, the pairs they find, and the memory they take.

parts: peer (end to end on one core, ours and datatrove's in turns), pairs (precision and recall on corpora with exact
labels), memory (largest worker for several p and corpus sizes), estimate (1e9 documents from what was measured).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.dedup import corpus as made_up
from rag_hpc.eval.bench.dedup import datatrove_peer
from rag_hpc.eval.bench.dedup import estimate as extrapolated
from rag_hpc.eval.bench.dedup import memory as measured
from rag_hpc.eval.bench.dedup.given import DEDUP, Document, given_documents, in_units, run_dedup
from rag_hpc.eval.bench.dedup.pairs import LABELLED, found_pairs, labelled, precision_and_recall
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import Options, known, peer
from rag_hpc.eval.bench.rows import Row

DEFAULTS = {
    "parts": "peer,pairs,memory,estimate",
    "documents": "1500",  # for the peer, which takes some 5 ms a document
    "pairs": "7",
    "scale": "20000",  # documents of the largest corpus whose workers' memory is measured
    "copies": "200000",  # documents that are all near copies of others, for the memory of linking
    "link_documents": "1000000",  # made up, for the same
    "memory_mib": "8",  # so little that dedup.group sorts through the disk
    "rate_documents": "100000",  # on which the rates of the estimate are measured
}
PER_UNIT = 5000
RANKS = (1, 2, 4)  # p
FEW = 50  # documents of a corpus that leaves a worker idle
BEYOND = "MiB beyond an idle worker"
MIB = 1 << 20


@dataclass
class Bench:
    """The options, a folder for everything, and where the shared data is (None: nowhere)."""

    options: Options
    folder: Path
    data: Path | None
    number: int = field(default=0)

    def whole(self, name: str) -> int:
        """Return an option as a number."""
        return int(self.options[name])

    def fresh(self) -> Path:
        """Return a path where nothing is."""
        self.number += 1
        return self.folder / str(self.number)

    def documents(self, num: int, per_unit: int = PER_UNIT) -> Manifest:
        """Return generated documents as the clean stage would put them out."""
        return self.given(made_up.documents(num, self.data), per_unit)

    def given(self, documents: list[Document], per_unit: int) -> Manifest:
        """Return these documents as the clean stage would put them out."""
        return given_documents(self.fresh(), in_units(documents, per_unit))


def run(options: Options) -> list[Row]:
    """Return the rows of the parts asked for."""
    asked = known(options, DEFAULTS)
    unknown = sorted(set(asked["parts"].split(",")) - set(PARTS))
    if unknown:
        raise ConfigError(f"parts={asked['parts']}: no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    data = Path(os.environ.get("RAG_HPC_DATA", "../shared/data"))
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as folder:
        bench = Bench(asked, Path(folder), data if (data / "docs_cpp").is_dir() else None)
        return [row for part in asked["parts"].split(",") for row in PARTS[part](bench)]


def against_peer(bench: Bench) -> list[Row]:
    """Return how many documents a second go through dedup, ours and datatrove's, in this process and on one core."""
    peer("datatrove", "datatrove")
    num = bench.whole("documents")
    texts = made_up.documents(num, bench.data)
    ours, theirs = given_documents(bench.fresh(), in_units(texts, PER_UNIT)), bench.fresh()
    datatrove_peer.write_input(theirs, texts)
    kept: dict[str, int] = {}

    def run_ours() -> float:
        kept["ours"] = run_dedup(bench.fresh(), ours, {})["dedup.drop"].total("items_out")
        return num

    def run_theirs() -> float:
        kept["datatrove"] = datatrove_peer.deduplicate(theirs, bench.fresh())
        return num

    warm_up(bench)
    timed = take_turns({"ours": rate(run_ours), "datatrove": rate(run_theirs)}, bench.whole("pairs"))
    ratio, interval = timed.ratio("datatrove")
    note = f"{num} documents, {num - kept['ours']} dropped by ours, {num - kept['datatrove']} by datatrove"
    return [
        Row(
            name="dedup end to end",
            ours=timed.median("ours"),
            unit="documents/s",
            peers={"datatrove": timed.median("datatrove")},
            ratio=ratio,
            interval=interval,
            bar=3.0,
            contention=timed.contention,
            note=note,
        )
    ]


def warm_up(bench: Bench) -> None:
    """Run both sides once on a little: compiling and loading a tokenizer are no part of the rate."""
    few = made_up.documents(50, bench.data)
    run_dedup(bench.fresh(), given_documents(bench.fresh(), in_units(few, 25)), {})
    datatrove_peer.deduplicate(datatrove_peer.write_input(bench.fresh(), few), bench.fresh())


def rate(work: Callable[[], float]) -> Callable[[], float]:
    """Return a function that does the work and returns what it did a second."""

    def timed() -> float:
        begun = time.perf_counter()
        return work() / (time.perf_counter() - begun)

    return timed


def pair_quality(bench: Bench) -> list[Row]:
    """Return precision and recall of the verified pairs on the corpora with labels, at a threshold of 0.8."""
    if bench.data is None:
        raise ConfigError("parts=pairs needs the labelled corpora; set RAG_HPC_DATA to their folder, or leave it out")
    rows = []
    for corpus in LABELLED:
        documents, wanted = labelled(bench.data, corpus, threshold=0.8)
        found = found_pairs(run_dedup(bench.fresh(), given_documents(bench.fresh(), in_units(documents, 1000)), {}))
        judged = precision_and_recall(found, [name for name, _ in documents], wanted)
        for what, value in zip(("precision", "recall"), judged, strict=True):
            rows.append(
                Row(
                    name=f"pair {what}, {corpus}",
                    ours=value,
                    unit="",
                    bar=0.99,
                    note=f"{len(documents)} documents, {len(wanted)} pairs from 0.8 on",
                )
            )
    return rows


def memory(bench: Bench) -> list[Row]:
    """Return what the largest worker of each step takes for several p and corpus sizes, and what one index takes."""
    peer("datasketch", "datasketch")
    settings, scale = {"memory_mib": bench.whole("memory_mib")}, bench.whole("scale")
    few = {"clean": bench.documents(FEW)}
    idle = measured.dedup_peaks(bench.fresh(), few, settings, 1)
    idle_rank = {p: measured.linked_peak(bench.fresh(), few, p) for p in RANKS}
    corpora = {num: bench.documents(num, per_unit=2000) for num in (scale, scale // 2, scale // 4)}
    peaks = {
        (num, p): measured.dedup_peaks(bench.fresh(), {"clean": corpora[num]}, settings, p)
        for num, p in ((scale, 1), (scale, 2), (scale, 4), (scale // 2, 2), (scale // 4, 2))
    }
    rows = []
    for name in DEDUP:
        resting = idle_rank if name == "dedup.link" else dict.fromkeys(RANKS, idle[name])
        taken = {f"p={p}": (peaks[scale, p][name] - resting[p]) / MIB for p in RANKS}
        sizes = {f"{num} documents": peaks[num, 2][name] / MIB for num in sorted(corpora)}
        growth = peaks[scale, 2][name] / peaks[scale // 4, 2][name]
        rows.append(
            Row(
                name=f"memory of {name}, {scale} documents",
                ours=taken["p=1"],
                unit=BEYOND,
                peers=taken,
                note=f"a worker with {FEW} documents has {resting[1] / MIB:.0f} MiB, Python and kernels",
            )
        )
        rows.append(
            Row(
                name=f"peak memory of {name}, four times the documents, p=2",
                ours=growth,
                unit="times",
                peers=sizes,
                bar=1.25,
                less_is_better=True,
            )
        )
    largest = max(peaks[scale, 1][name] - idle[name] for name in DEDUP) / MIB
    return [*rows, index_memory(bench, few["clean"], corpora, largest), *link_memory(bench, idle_rank)]


def index_memory(bench: Bench, few: Manifest, corpora: dict[int, Manifest], ours: float) -> Row:
    """Return our largest worker's memory beside that of one process with datasketch's index of all documents."""
    alone = measured.index_peak(bench.fresh(), few)
    scale = max(corpora)
    taken = {num: (measured.index_peak(bench.fresh(), corpora[num]) - alone) / MIB for num in (scale // 4, scale)}
    return Row(
        name=f"memory of dedup, {scale} documents",
        ours=ours,
        unit=BEYOND,
        ratio=ours / taken[scale],
        peers={"datasketch's index": taken[scale], f"of {scale // 4} documents": taken[scale // 4]},
        less_is_better=True,
        note="our largest worker, p=1, against one process that holds all documents' bands",
    )


def link_memory(bench: Bench, idle: dict[int, int]) -> list[Row]:
    """Return what a rank takes for linking near copies, found by the steps before, and made-up pairs of many more."""
    num = bench.whole("copies")
    found = {"clean": bench.given(made_up.near_copies(num, bench.data), per_unit=2000)}
    measured.dedup_peaks(bench.fresh(), found, {}, p=4, steps=DEDUP[: DEDUP.index("dedup.link")])
    made, pairs = bench.whole("link_documents"), found["dedup.verify"].total("items_out")
    peaks = {
        f"{num} near copies, {pairs} pairs": {p: measured.linked_peak(bench.fresh(), found, p) for p in RANKS},
        f"{made} made-up documents": {p: measured.link_peaks(bench.fresh(), made, p) for p in RANKS},
    }
    rows = []
    for what, peak in peaks.items():
        taken = {p: (peak[p] - idle[p]) / MIB for p in RANKS}
        rows += [
            Row(
                name=f"memory of linking {what}, p={p} against p={p // 2}",
                ours=taken[p],
                unit=BEYOND,
                peers={f"p={p // 2}": taken[p // 2]},
                ratio=taken[p] / taken[p // 2],
                bar=0.85,
                less_is_better=True,
            )
            for p in RANKS[1:]
        ]
    return rows


def estimate(bench: Bench) -> list[Row]:
    """Return core-hours, disk and files for 1e9 documents, from the rates and bytes of this machine."""
    documents = bench.documents(bench.whole("rate_documents"))
    run_dedup(bench.fresh(), bench.documents(50), {})
    target = bench.fresh()
    seconds, found = extrapolated.timed_dedup(target, documents)
    rows = extrapolated.rows(seconds, found)
    shutil.rmtree(target)
    return rows


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "peer": against_peer,
    "pairs": pair_quality,
    "memory": memory,
    "estimate": estimate,
}
