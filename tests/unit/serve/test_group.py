"""A resident group on this machine: real ranks in processes of their own, asked over its socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.types import Array
from rag_hpc.cli import main
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.ledger import Ledger
from rag_hpc.search.searcher import Found, Searcher, knowledge
from rag_hpc.serve.client import Client, Reply, Unanswered, search_groups
from rag_hpc.serve.places import FOLDER, Place, groups_of
from rag_hpc.serve.rank import settings_of

pytestmark = pytest.mark.timeout(300)
TEXTS = ["Which argument of a deque drops older items?", "", "sha256 sha256 digest block", "zyxwv", "sort " * 20_000]


def vectors(num: int = len(TEXTS)) -> Array:
    drawn = np.random.default_rng(0).standard_normal((num, 384)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def test_up(run: Ledger, chain: stagerun.Chain, tmp_path: Path) -> None:
    t=time.time()
    assert main(["serve", "up", f"run={run.run_dir}", "workers=3"]) == 0
    print("up", time.time()-t)
    (place,) = groups_of(run.run_dir)
    client = Client(place)
    out = chain.out
    own = Searcher(out["lexical"], out["encode"], None, settings_of(run.request()), SerialComm(), tmp_path, knowledge(out)).search(TEXTS, vectors())
    for n in range(3):
        t=time.time()
        reply = client.search(TEXTS, vectors())
        print("query", time.time()-t, reply.coverage)
    for method, (scores, ids) in own.hits.items():
        assert scores.tobytes() == reply.found.hits[method][0].tobytes()
        assert ids.tobytes() == reply.found.hits[method][1].tobytes()
    main(["serve", "status", f"run={run.run_dir}"])
    t=time.time()
    assert main(["serve", "down", f"run={run.run_dir}"]) == 0
    print("down", time.time()-t)
    assert not (run.run_dir / FOLDER).exists()
