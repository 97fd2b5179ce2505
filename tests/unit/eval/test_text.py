"""Numbers and tables for people."""

from __future__ import annotations

import pytest

from rag_hpc.eval import text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0421, "42 ms"),
        (0.5, "0.50 s"),
        (9.96, "10.0 s"),
        (71.23, "71.2 s"),
        (99.6, "1 min 40 s"),
        (3599.7, "1 h 00 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_have_a_fitting_unit(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.98999, "0.989"), (0.99, "0.990"), (1.0, "1.000"), (0.29, "0.290"), (None, "–")]
)
def test_shares_are_never_rounded_up(value: float | None, shown: str) -> None:
    assert text.share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (412 << 20, "412 MiB"), (None, "–"), (3 << 40, "3.0 TiB")],
)
def test_bytes_have_a_binary_unit(value: int | None, shown: str) -> None:
    assert text.amount(value) == shown


def test_columns_line_up() -> None:
    assert text.aligned(("a", "bb"), [("ccc", "d"), ("e", "")]) == "a    bb\nccc  d\ne"


def test_counts_are_grouped_and_times_are_utc() -> None:
    assert text.count(1234567) == "1\u202f234\u202f567"
    assert text.day(0) == "1970-01-01 00:00 UTC"


def test_a_table_that_is_too_wide_goes_on_below_and_remarks_go_below_their_rows() -> None:
    header, rows = ("stage", "p", "T", "energy", ""), [("crawl", "1", "2.0 s", "0.1 kWh", "a remark of some words")]
    whole = text.aligned(header, rows)
    assert whole == text.aligned(header, rows, width=49) and len(whole.splitlines()) == 2
    assert text.aligned(header, rows, keys=2, width=19).splitlines() == [
        "stage  p  T",
        "crawl  1  2.0 s",
        "",
        "stage  p  energy",
        "crawl  1  0.1 kWh",
        "    a remark of",
        "    some words",
    ]
