"""Bench `dedup`: signatures from raw text against datasketch and rensa, their error, and the verdict on edited copies.

rag-hpc bench dedup [docs=4000] [rounds=7] [error_pairs=4000] [planted=500] [parts=kernel,...] [--json]
The other parts, the whole stage, its memory and its recall, are those of `dedup_scale` and have options of their own.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.dedup.minhash import band_keys, bands_for, estimate_pairs
from rag_hpc.algo.dedup.sketch import from_texts, jaccard_pairs, shingle_sets, signatures, sketch, sketch_texts
from rag_hpc.algo.text.words import WORD
from rag_hpc.algo.types import F64, I64, U32
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.dedup import peers as peers
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import Options, known, peer
from rag_hpc.eval.bench.rows import Row
from rag_hpc.stages.dedup.sign import bytes_and_ends

Sign = Callable[[Sequence[str]], Any]
DEFAULTS = {
    "docs": "4000",
    "rounds": "7",
    "error_pairs": "4000",
    "planted": "500",
    "parts": "kernel,peer,pairs,memory,estimate",
}
DATA = "RAG_HPC_DATA"
CORPORA = ("docs_cpp", "docs_powershell")
BARS = {"datasketch at equal RMSE": 40.0, "rensa": 1.5}
BARS_ERROR: dict[str, float | None] = {"datasketch": 1.0, "rensa": None}  # the two differ by a percent on long texts
THRESHOLD = 0.8
RESAMPLES = 2000
AT_ONCE = 2048  # texts of a batch


def run(options: Options) -> list[Row]:
    """Return the rows. What this file does not know among the options is for `dedup_scale`."""
    mine = known({key: value for key, value in options.items() if key in DEFAULTS}, DEFAULTS)
    rest = {key: value for key, value in options.items() if key not in DEFAULTS}
    rows: list[Row] = []
    parts, have = mine["parts"].split(","), DEFAULTS["parts"].split(",")
    if unknown := sorted(set(parts) - set(have)):
        raise ConfigError(f"parts={mine['parts']}: no part {unknown[0]!r}; known: {', '.join(have)}")
    others = [part for part in parts if part != "kernel"]
    if others:
        from rag_hpc.eval.bench.dedup import scale

        rows = scale.run(rest | {"parts": ",".join(others)})
    else:
        known(rest, DEFAULTS)
    return [*kernel_rows(mine), *rows] if "kernel" in parts else rows


def kernel_rows(options: Options) -> list[Row]:
    """Return the rows of the signatures alone."""
    peer("datasketch", "datasketch")
    peer("rensa", "rensa")
    texts, num_pairs = list(documents(int(options["docs"]))), int(options["error_pairs"])
    return [
        *speed_rows(texts, int(options["rounds"]), equal_error_permutations(num_pairs)),
        ready_row(texts, int(options["rounds"])),
        *error_rows("short", 10, 100, num_pairs),
        *error_rows("long", 200, 400, num_pairs),
        verdict_row(texts, int(options["planted"])),
    ]


def documents(count: int) -> Iterator[str]:
    """Yield texts of 200 to 400 words: pieces of the documentation corpora, then made ones (all, without the data)."""
    from rag_hpc.eval.bench.dedup.pairs import read_lines

    folder, rng = Path(os.environ.get(DATA, "../shared/data")), random.Random(0)
    paths = [path for name in CORPORA if (path := folder / name / "docs.jsonl.zst").is_file()]
    pages = (str(row["text"]) for path in paths for row in read_lines(path))
    for page in pages:
        ends = [match.end() for match in WORD.finditer(page)]
        begin, size = 0, rng.randint(200, 400)
        while begin + size < len(ends):
            if count == 0:
                return
            yield page[ends[begin] : ends[begin + size]]
            begin, size, count = begin + size, rng.randint(200, 400), count - 1
    for _ in range(count):
        yield made(rng, rng.randint(200, 400))


def made(rng: random.Random, num_words: int) -> str:
    """Return words of a large vocabulary, mostly of few letters, with a comma or a line's end here and there."""
    words = [
        "abcdefghijklmnop"[rng.randrange(16)] * rng.randint(1, 3) + hex(rng.getrandbits(28))[2:]
        for _ in range(num_words)
    ]
    return "".join(word + rng.choice((" ", " ", " ", " ", " ", ", ", ".\n")) for word in words)


def speed_rows(texts: Sequence[str], rounds: int, equal: int) -> list[Row]:
    """Return documents a CPU second from raw text, ours against the better way of each peer.

    `equal`: the permutations that datasketch needs for the error that ours has with 128.
    """
    import pyarrow as pa

    column = pa.chunked_array([pa.array(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)])
    begin = time.perf_counter()
    sign_column(column)
    compiled = time.perf_counter() - begin
    ways: dict[str, Sign] = {way: _with(sign, peers.NUM_PERM) for way, sign in peers.DATASKETCH.items()}
    at_equal_error = {f"{way}, {equal} permutations": _with(sign, equal) for way, sign in peers.DATASKETCH.items()}
    sides = {
        name: _rate(partial(_sign_as_python, sign, column), len(texts), 1)
        for name, sign in {**ways, **at_equal_error, **peers.RENSA}.items()
    }
    timed = take_turns({"ours": _rate(lambda: sign_column(column), len(texts), 5), **sides}, rounds)
    size = np.mean([len(text) for text in texts])
    about = (
        f"{len(texts)} documents of {size:.0f} characters in an Arrow column as read from Parquet, to signatures, "
        f"shingling included; all threads' CPU time, the faster way of each peer; first call {compiled:.1f} s"
    )
    held = [
        ("datasketch at equal RMSE", list(at_equal_error), f"{equal} permutations against {peers.NUM_PERM}"),
        ("datasketch", list(ways), f"{peers.NUM_PERM} permutations each"),
        ("rensa", list(peers.RENSA), f"{peers.NUM_PERM} permutations each"),
    ]
    rows = []
    for name, tried, how in held:
        best = max(tried, key=timed.median)
        ratio, interval = timed.ratio(best)
        rows.append(
            Row(
                name=f"signatures_from_text_vs_{name.replace(' ', '_')}",
                ours=timed.median("ours"),
                unit="documents/CPU second",
                peers={way: timed.median(way) for way in tried},
                ratio=ratio,
                interval=interval,
                bar=BARS.get(name),
                contention=timed.contention,
                note=f"{how}; version {importlib.metadata.version(name.split()[0])}; {about}",
            )
        )
    return rows


def sign_column(column: Any) -> None:
    """Make the signatures of an Arrow column of texts, as dedup.sign does."""
    for texts in column.chunks:
        sketch(*bytes_and_ends(texts))


def _with(sign: Callable[[Sequence[str], int], Any], num_perm: int) -> Sign:
    return lambda texts: sign(texts, num_perm)


def _sign_as_python(sign: Sign, column: Any) -> None:
    sign(column.to_pylist())


def equal_error_permutations(num_pairs: int) -> int:
    """Return the most permutations with which datasketch's RMSE on long documents is not yet below ours with 128."""
    texts, pairs, exact = _known_pairs(200, 400, num_pairs)
    target, steps = _rmse(sketch_texts(texts).signatures_NK, pairs, exact), range(peers.NUM_PERM, 257, 16)
    errors = {num: _rmse(peers.rows_of(peers.datasketch_hashes(texts, num)), pairs, exact) for num in steps}
    return max((num for num, error in errors.items() if error >= target), default=peers.NUM_PERM)


def ready_row(texts: Sequence[str], rounds: int) -> Row:
    """Return documents a CPU second where the shingles' hashes are ready: no bar, it is not what users start from."""
    flat, ends = shingle_sets(*from_texts(texts))
    hashes = np.split(flat, ends[:-1])
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: signatures(flat, ends),
        "datasketch 2": lambda: peers.datasketch_ready(hashes),
        "rensa exact": lambda: peers.rensa_ready(hashes),
        "rensa rho": lambda: peers.rensa_ready(hashes, rho=True),
    }
    timed = take_turns({name: _rate(sign, len(texts), 1) for name, sign in sides.items()}, rounds)
    ratio, interval = timed.ratio("rensa exact")
    return Row(
        name="signatures_from_ready_hashes",
        ours=timed.median("ours"),
        unit="documents/CPU second",
        peers={name: timed.median(name) for name in sides if name != "ours"},
        ratio=ratio,
        interval=interval,
        contention=timed.contention,
        note="ratio to rensa exact; its rho reads 15 shingles of a document",
    )


def _rate(work: Callable[[], Any], num_docs: int, repeats: int) -> Callable[[], float]:
    def measure() -> float:
        begin = time.process_time()
        for _ in range(repeats):
            work()
        return repeats * num_docs / (time.process_time() - begin)

    return measure


def error_rows(name: str, shortest: int, longest: int, num_pairs: int) -> list[Row]:
    """Return the RMSE of the estimate over pairs of exact similarity 0.1 to 0.95, ours against each peer."""
    texts, pairs, exact = _known_pairs(shortest, longest, num_pairs)
    found = {
        "ours": sketch_texts(texts).signatures_NK,
        "datasketch": peers.rows_of(peers.datasketch_hashes(texts)),
        "rensa": peers.rows_of(peers.rensa_hashes(texts)),
    }
    squares = {side: (estimate_pairs(rows, pairs) - exact) ** 2 for side, rows in found.items()}
    rmse = {side: float(np.sqrt(values.mean())) for side, values in squares.items()}
    rows = []
    for library in ("datasketch", "rensa"):
        ratio, interval = _ratio_of_rmse(squares["ours"], squares[library])
        rows.append(
            Row(
                name=f"rmse_{name}_vs_{library}",
                ours=rmse["ours"],
                unit="of Jaccard",
                peers={library: rmse[library]},
                ratio=ratio,
                interval=interval,
                bar=BARS_ERROR[library],
                less_is_better=True,
                note=f"{num_pairs} pairs of {shortest} to {longest} words, exact Jaccard {exact.min():.2f} to "
                f"{exact.max():.2f}, {peers.NUM_PERM} permutations each; interval by bootstrap over pairs",
            )
        )
    return rows


def _known_pairs(shortest: int, longest: int, num_pairs: int) -> tuple[list[str], I64, F64]:
    """Return texts, the pairs among them, and the exact similarity of each pair."""
    texts = list(_pairs_of_texts(random.Random(longest), shortest, longest, num_pairs))
    pairs = np.arange(2 * num_pairs).reshape(-1, 2)
    exact = np.array([_jaccard(set(peers.grams(texts[a])), set(peers.grams(texts[b]))) for a, b in pairs])
    return texts, pairs, exact


def _rmse(signatures_NK: U32, pairs: I64, exact: F64) -> float:
    return float(np.sqrt(((estimate_pairs(signatures_NK, pairs) - exact) ** 2).mean()))


def _pairs_of_texts(rng: random.Random, shortest: int, longest: int, num_pairs: int) -> Iterator[str]:
    """Yield two texts a pair, which begin alike: of G 5-grams each, 2GJ/(1+J) are common."""
    for number in range(num_pairs):
        similarity = 0.1 + 0.85 * number / max(1, num_pairs - 1)
        size = rng.randint(shortest, longest)
        grams = size - peers.NGRAM + 1
        common = round(2 * grams * similarity / (1 + similarity))
        alike = made(rng, common + peers.NGRAM - 1)
        yield alike + made(rng, grams - common)
        yield alike + made(rng, grams - common)


def _jaccard(a: set[bytes], b: set[bytes]) -> float:
    return len(a & b) / len(a | b)


def _ratio_of_rmse(ours: F64, peer_squares: F64) -> tuple[float, tuple[float, float]]:
    picked = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = np.sqrt(ours[picked].mean(axis=1) / peer_squares[picked].mean(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.sqrt(ours.mean() / peer_squares.mean())), (float(low), float(high))


def verdict_row(texts: Sequence[str], planted: int) -> Row:
    """Return the share of copies with one edited word that are still found and verified as duplicates."""
    originals = [texts[number % len(texts)] for number in range(planted)]
    both = originals + [edited(text, number) for number, text in enumerate(originals)]
    pairs = np.arange(2 * planted).reshape(2, -1).T
    keys = band_keys(sketch_texts(both).signatures_NK, *bands_for(peers.NUM_PERM, THRESHOLD))
    candidates = (keys[pairs[:, 0]] == keys[pairs[:, 1]]).any(axis=1)
    kept = candidates & (jaccard_pairs(*shingle_sets(*from_texts(both)), pairs) >= THRESHOLD)
    hashes = [peers.gram_hashes(text) for text in both]
    found = {
        "datasketch": peers.datasketch_ready(hashes),
        "rensa exact": peers.rensa_ready(hashes),
        "rensa rho": peers.rensa_ready(hashes, rho=True),
    }
    estimates = {side: estimate_pairs(peers.rows_of(one), pairs) for side, one in found.items()}
    shares = {side: float((values >= THRESHOLD).mean()) for side, values in estimates.items()}
    return Row(
        name="verdict_unchanged_by_one_word",
        ours=float(kept.mean()),
        unit="share",
        peers=shares,
        bar=1.0,
        note=f"{planted} copies with a word inserted, deleted or replaced at the front, middle or end; ours: "
        f"shares a band and exact Jaccard >= {THRESHOLD}, peers: estimate >= {THRESHOLD}",
    )


def edited(text: str, number: int) -> str:
    """Return the text with one word inserted, deleted or replaced at the front, in the middle or at the end."""
    spans = [match.span() for match in WORD.finditer(text)]
    begin, end = spans[(0, len(spans) // 2, len(spans) - 1)[number // 3 % 3]]
    return text[:begin] + (f"planted {text[begin:end]}", "", "planted")[number % 3] + text[end:]
