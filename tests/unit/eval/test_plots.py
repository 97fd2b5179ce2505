"""Plots are well-formed SVG, drawn to scale."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.eval.report import plots

SERIES = (("queue", 5), ("work", 0))


def test_bars_are_drawn_to_scale_and_end_with_their_sum() -> None:
    tree = ET.fromstring(plots.stacked_bars([("crawl", [10.0, 30.0]), ("clean", [0.0, 20.0])], SERIES, "seconds"))
    bars = [bar for bar in tree.iter("rect") if bar.find("title") is not None]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.05)
    assert widths[2] == 0
    assert float(bars[1].get("x", "0")) == pytest.approx(float(bars[0].get("x", "0")) + widths[0], abs=0.05)
    texts = [text.text for text in tree.iter("text")]
    assert {"crawl", "clean", "40 s", "20 s", "seconds", "queue", "work"} <= set(texts)


def test_lines_rise_with_their_values_and_stay_inside_the_picture() -> None:
    curves = {"bm25": [(1, 0.2), (10, 0.5), (100, 0.9)], "dense": [(1, 0.1), (10, 0.6), (100, 1.0)]}
    tree = ET.fromstring(plots.line_chart(curves, x_label="k", y_label="recall", y_range=(0.0, 1.0)))
    lines = [line for line in tree.iter("polyline") if (line.get("points") or "").count(",") == 3]
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in (line.get("points") or "").split()]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
        assert all(0 <= x <= 520 and 0 <= y <= 300 for x, y in points)
        assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)  # logarithmic
    assert len(lines) == 2


def test_names_from_data_are_escaped() -> None:
    text = plots.stacked_bars([('<script>&"', [1.0, 1.0])], SERIES, "a & b")
    assert "<script>" not in text
    ET.fromstring(text)


def test_empty_and_single_data_still_draw() -> None:
    ET.fromstring(plots.stacked_bars([("crawl", [0.0, 0.0])], SERIES, "seconds"))
    ET.fromstring(plots.line_chart({"ann": [(1, 1.0)]}, x_label="k", y_label="share", y_range=(0.95, 1.0)))


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_range_and_are_few(low: float, span: float) -> None:
    ticks = plots.nice_ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
