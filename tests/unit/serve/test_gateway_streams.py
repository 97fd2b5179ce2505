"""Many streams at once through one gateway, each of which an engine keeps open."""

from __future__ import annotations

import fixedcorpus
import gateways
import pytest

from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.serve import streams
from rag_hpc.eval.bench.serve.process import free_port
from rag_hpc.serve.gateway.places import GatewayPlace

NUM = 100


def test_a_hundred_streams_are_open_at_once_and_none_fails(gated: Ledger) -> None:
    replica = f"gateway.replicas=[http://127.0.0.1:{free_port()}/v1]"
    settings = ["generator=openai", "generator.model=played", replica, f"gateway.max_in_flight={NUM}"]
    place = GatewayPlace(gated.run_dir, "streaming")
    with gateways.gateway(gated, place.name, *settings):
        questions = list(fixedcorpus.ASKED.values())
        rows = {row.name: row for row in streams.hold(place, questions, NUM, rate=100, hold_s=1.0)}
        with pytest.raises(ConfigError, match=f"fewer than {NUM + 1}"):
            streams.hold(place, questions, NUM + 1, rate=100, hold_s=1.0)
    assert rows["serve.streams.open"].ours == NUM and rows["serve.streams.failed"].ours == 0
    assert 0 <= rows["serve.streams.memory"].ours < 2048
