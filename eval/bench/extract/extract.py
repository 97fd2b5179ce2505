"""extract: quality on pages with gold text and speed on one core, ours beside trafilatura and resiliparse.

Quality is judged out of sample: for each of five folds of sites, weights are learned from the pages of the other folds
(news, readability's test pages and some documentation), and every page is read with weights that never saw its site.
The rows with "shipped weights" have seen all pages. Rates: whole `extract` calls from bytes, metadata included, against
trafilatura.extract(fast=True, include_comments=False), its fastest documented settings; compiling is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_hpc.algo.extract import density
from rag_hpc.algo.extract import peers as known_peers
from rag_hpc.algo.extract.decode import ExtractError, decode
from rag_hpc.algo.extract.extract import Extractor, extract
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.extract import train
from rag_hpc.eval.bench.extract.data import Sample, documentation, readability, score, scrapinghub
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import known, peer
from rag_hpc.eval.bench.rows import Row

DEFAULTS = {"data": "", "pairs": "7", "folds": "true", "train": ""}
_BARS = {"scrapinghub": -0.01, "readability": -0.02}  # F1, ours less trafilatura fast
_RATE_BAR = 5.0  # times trafilatura fast
Read = Callable[[Sample], str]


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of F1 and of pages a second. Options: data, the folder with the corpora (RAG_HPC_DATA); pairs;
    folds=false leaves out learning, and with it the judged F1; train=FILE writes new weights there."""
    given = known(options, DEFAULTS)
    peer("trafilatura", "trafilatura")
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError(
            "the extract benchmark needs pages with gold text; set RAG_HPC_DATA or data=FOLDER to the "
            "folder that holds extract_scrapinghub, extract_readability and html_ipython"
        )
    data = Path(place)
    sets = {"scrapinghub": scrapinghub(data), "readability": readability(data)}
    learned = {}
    if given["train"] or given["folds"] == "true":
        peer("lightgbm", "LightGBM")
        learned = _learned(sets, data, given)
    rows = [row for name, samples in sets.items() for row in _quality(name, samples, learned.get(name))]
    return rows + [_rate(name, samples, int(given["pairs"])) for name, samples in sets.items()]


def _learned(sets: dict[str, list[Sample]], data: Path, given: dict[str, str]) -> dict[str, list[str]]:
    """Return the texts found with weights of the other folds; write new weights if they are asked for."""
    pages = {name: [train.labelled(sample) for sample in samples] for name, samples in sets.items()}
    every = [page for found in pages.values() for page in found]
    every += [train.labelled(sample) for sample in documentation(data)]
    if given["train"]:
        Path(given["train"]).write_text(train.written(train.learn(every)), encoding="ascii")
    if given["folds"] != "true":
        return {}
    rounds = train.cross_validated(every)
    return {
        name: [density.main_text(page.page, *rounds[page.fold])[0] for page in found] for name, found in pages.items()
    }


def _quality(name: str, samples: Sequence[Sample], learned: list[str] | None) -> list[Row]:
    """Return F1 of all, and the judged difference to trafilatura's fast mode."""
    gold = [sample.gold for sample in samples]
    found = {peer_name: score(zip(gold, map(read, samples), strict=True)) for peer_name, read in _PEERS.items()}
    peers = {peer_name: figures[2] for peer_name, figures in found.items()}
    shipped = score(zip(gold, map(_ours, samples), strict=True))
    rows = [
        Row(
            name=f"extract.{name}.f1_shipped_weights",
            ours=shipped[2],
            unit="F1",
            peers=peers,
            note=f"ours has seen these pages; precision {shipped[0]:.4f}, recall {shipped[1]:.4f}",
        )
    ]
    if learned is not None:
        ours = score(zip(gold, learned, strict=True))
        rows.append(
            Row(
                name=f"extract.{name}.f1",
                ours=ours[2],
                unit="F1",
                peers=peers,
                ratio=ours[2] - peers["trafilatura_fast"],
                bar=_BARS[name],
                note="ratio: F1 less trafilatura fast's; weights that never saw the page's site; "
                f"precision {ours[0]:.4f}, recall {ours[1]:.4f}",
            )
        )
    return rows


def _rate(name: str, samples: Sequence[Sample], num_pairs: int) -> Row:
    """Return pages a second of one core."""
    sides = {"ours": partial(_pages_per_s, _ours, samples)}
    sides |= {
        peer_name: partial(_pages_per_s, read, samples)
        for peer_name, read in _PEERS.items()
        if peer_name != "trafilatura_default"
    }
    for side in sides.values():
        side()  # warm: compiled, imported, in the cache
    timed = take_turns(sides, num_pairs)
    ratio, interval = timed.ratio("trafilatura_fast")
    mean_kb = sum(len(sample.body) for sample in samples) / len(samples) / 1000
    return Row(
        name=f"extract.{name}.rate",
        ours=timed.median("ours"),
        unit="pages/s/core",
        peers={side: timed.median(side) for side in sides if side != "ours"},
        ratio=ratio,
        interval=interval,
        bar=_RATE_BAR,
        contention=timed.contention,
        note=f"over trafilatura fast; {len(samples)} pages of {mean_kb:.0f} kB; CPU time, compiling left out",
    )


def _pages_per_s(read: Read, samples: Sequence[Sample]) -> float:
    begin = time.process_time()
    for sample in samples:
        read(sample)
    return len(samples) / (time.process_time() - begin)


def _ours(sample: Sample) -> str:
    try:
        return extract(sample.body, "text/html", None, sample.url, Extractor.density).text
    except ExtractError:
        return ""


def _trafilatura(sample: Sample, **settings: Any) -> str:
    from trafilatura import extract as extract_main

    return extract_main(sample.body, include_comments=False, **settings) or ""


def _resiliparse(sample: Sample) -> str:
    try:
        return known_peers.resiliparse_main(decode(sample.body, None, sample.url))
    except ExtractError:
        return ""


_PEERS: dict[str, Read] = {
    "trafilatura_fast": partial(_trafilatura, fast=True),
    "trafilatura_default": _trafilatura,
    "resiliparse": _resiliparse,
}
