"""How many shards a collection needs."""

from __future__ import annotations

import json
from pathlib import Path

import fake_run
import pytest

from rag_hpc import cli

BILLION = ("passages=1e9", "dims=384", "dtype=float32", "mem_gb=64")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert cli.main(["size", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_shards_are_counted_for_the_vectors_alone_and_headroom_stands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["size", *BILLION]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "passages 1,000,000,000 of 384 float32",
        "bytes 1,536,000,000,000 of vectors, 8,000,000,000 of ids",
        "num_shards 24 of 64 GB, for the vectors alone",
        "headroom 0.00 GB a shard, of which its ids take 0.33; with 20% kept free and ids: num_shards 31",
    ]


@pytest.mark.parametrize(
    ("words", "num_shards"),
    [
        (BILLION, 24),
        (("passages=2e9", "dims=768", "mem_gb=48"), 128),
        (("passages=2e9", "dims=768", "mem_gb=48", "dtype=float16"), 64),
        (("passages=1000001", "dims=1", "mem_gb=0.001", "dtype=int8"), 2),
        (("passages=1", "dims=384", "mem_gb=64"), 1),
    ],
)
def test_golden_numbers_of_shards(words: tuple[str, ...], num_shards: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, *words)
    assert found["num_shards"] == num_shards
    assert found["num_shards_with_headroom"] >= num_shards  # type: ignore[operator]
    assert 0 <= found["headroom_bytes"] < float(str(found["mem_gb"])) * 1e9  # type: ignore[operator]


def test_hours_come_from_the_rates_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="told", p=2))
    found = call(capsys, *BILLION, "run=told", f"cluster.root={tmp_path}")
    hours = found["hours"]
    assert isinstance(hours, dict) and set(hours) == {"encode", "vectors.train", "vectors.build"}
    assert hours["encode"] > hours["vectors.build"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "passages=: a number above 0 is needed, such as passages=1e9"),
        (("passages=1.5",), "passages=1.5: a whole number is needed"),
        (("passages=-1",), "passages=-1: a number above 0"),
        (("passages=9", "dims=2", "mem_gb=nan"), "such as mem_gb=64"),
        (("passages=9", "dims=2", "mem_gb=1", "dtype=float8"), "known are float32, float16, int8"),
        (("passages=9", "dims=2", "mem_gb=1e-9"), "does not hold one vector of 2 float32"),
        (("passages=9", "dim=2"), "dims"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["size", *words]) == 2
    assert told in capsys.readouterr().err
