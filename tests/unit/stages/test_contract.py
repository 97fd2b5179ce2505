"""What every stage owes the contract: same bytes for every p and order, counts that add up, nothing of the machine."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.core.plan import stage_folder
from rag_hpc.core.planner import make_plan
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.inline import alone
from rag_hpc.sources.base import ROUNDS
from rag_hpc.stages.registry import STAGES, make_stage, stage_class
from rag_hpc.stores.tables import read_table

RUN = stagerun.STAGES

WRONG = [  # stage, settings, what the message must say
    ("crawl", {"source": "files", "pages_per_unit": 0}, "pages_per_unit=0: at least 1"),
    ("crawl", {"source": "pydoc", "num_hosts": 999}, "between 1 and 200"),
    ("crawl", {"source": "ftp"}, "site"),
    ("crawl", {"source": "files", "pathh": "x"}, "pathh"),
    ("crawl", {"source": "beir", "delay_s": 1.0}, "delay_s"),
    ("clean", {"min_chars": 9, "max_chars": 8}, "try min_chars=50"),
    ("clean", {"extractor": "lynx"}, "resiliparse"),
    ("dedup.sign", {"threshold": 0.0}, "try 0.8"),
    ("dedup.group", {"threshold": 1.01}, "try 0.8"),
    ("dedup.drop", {"num_perm": 15}, "num_perm from 16"),
    ("dedup.drop", {"num_perm": 10**30}, "to 65536"),
    ("dedup.drop", {"num_groups": 0}, "num_groups >= 1"),
    ("dedup.verify", {"window": 0}, "try window=16"),
    ("dedup.link", {"family": "legacy"}, "set stage.dedup.verify=estimate"),
    ("chunk", {"max_tokens": 15}, "at least 16; try 254"),
    ("chunk", {"heading_tokens": 128}, "between 0 and half"),
    ("chunk", {"overlap_tokens": -1}, "between 0 and half"),
    ("lexical", {"num_shards": 0}, "num_shards >= 1"),
    ("lexical", {"heap_mib": 8}, "heap_mib >= 64"),
    ("lexical", {"analyzer": "tlh"}, "zh"),
    ("encode", {"tokens_per_batch": 511}, "try 4096"),
    ("encode", {"tokens_per_unit": -1}, "0 or more"),
    ("encode", {"precision": "int4"}, "float32"),
    ("encode", {"encoder": {"name": "openai"}}, "set encoder.base_url"),
    ("retrieve.queries", {"encoder": {"batch": 0}}, "encoder.batch=0: between 1 and 2048"),
    ("vectors.train", {"num_shards": 0}, "num_shards"),
    ("vectors.train", {"iterations": 0}, "at least 1; try 10"),
    ("vectors.build", {"min_recall": 1.5}, "try 0.99"),
    ("vectors.train", {"index": "ivf_pqq"}, "ivf_pq_fastscan"),
    ("vectors.train", {"shortlist": -1}, "shortlist, ef_search and mem_gib >= 0"),
    ("vectors.train", {"mem_gib": float("nan")}, "shortlist, ef_search and mem_gib >= 0"),
    ("retrieve.queries", {"num_known_items": 0}, "at least 1; try 100"),
    ("retrieve.search", {"k": 101}, "between 1 and depth=100"),
    ("retrieve.search", {"b": 1.1}, "0 <= b <= 1"),
    ("retrieve.search", {"num_probes": -1}, "num_probes, shortlist and ef_search >= 0"),
    ("retrieve.search", {"method": "splade"}, "fused"),
    ("retrieve.search", {"dense_weight": 1.5}, "between 0 and 1; try null"),
    ("retrieve.search", {"exact": "often"}, "sample"),
    ("rerank", {"depth": 0}, "try depth=20"),
    ("generate", {"k": 0}, "at least 1 passage"),
    ("generate", {"generator": {"name": "openai"}}, "set generator.base_url"),
    ("generate", {"generator": {"name": "vllm"}}, "set generator.model to the folder"),
    ("generate", {"generator": {"name": "transformers", "model": "m", "temperature": 0.5}}, "generator.temperature=0"),
    ("generate", {"generator": {"concurrency": 0}}, "generator.concurrency=0: between 1 and 1024"),
    ("generate", {"generator": {"compress": {"sentences": -1}}}, "generator.compress.sentences=-1"),
    ("generate", {"prompt": {"system": "Answer."}}, "prompt.system"),
    ("judge", {"metrics": ["faith"]}, "some of faithfulness"),
    ("judge", {"base_url": "http://me@host/v1"}, "stage.judge.api_key_env"),
    ("judge", {"concurrency": 0}, "stage.judge.concurrency=0: between 1 and 1024"),
    ("evaluate", {"measures": []}, "measures="),
    ("evaluate", {"texts": ["bleurt"]}, "string_similarity"),
    ("evaluate", {"k": 0}, "k >= 1"),
]


@pytest.fixture(scope="module")
def shuffled(front: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The hashes of the same work by 2 and by 7 workers in a shuffled order, on another host and at another time."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        now = time.time
        patch.setattr(time, "time", lambda: now() + 1e7)
        for p in (2, 7):
            folder = tmp_path_factory.mktemp(f"p{p}") / "in a folder of another name"
            chain = stagerun.new_chain(folder).run(*stagerun.TO_CHUNK, p=p, seed=p)
            if p == 7:
                chain.run(*RUN[len(stagerun.TO_CHUNK) :], p=3, seed=1)
            found[str(p)] = chain.hashes()
    return found


@pytest.mark.parametrize("stage", RUN)
def test_output_depends_neither_on_workers_nor_on_order_nor_on_the_place(
    stage: str, chain: stagerun.Chain, shuffled: dict[str, dict[str, str]]
) -> None:
    assert shuffled["7"][stage] == chain.hashes()[stage]
    if stage in stagerun.TO_CHUNK:
        assert shuffled["2"][stage] == chain.hashes()[stage]


@pytest.mark.parametrize("stage", RUN)
def test_every_unit_balances_and_holds_at_most_three_entries(stage: str, chain: stagerun.Chain) -> None:
    found = chain.out[stage]
    assert found.units and not found.quarantined
    for unit in found.units:
        assert unit["items_in"] == unit["items_out"] + sum(unit["dropped"].values())
        assert len(list(found.unit_dir(unit["index"]).iterdir())) <= 3
        dropped = sum(unit["dropped"].values())
        assert unit["files"].get("rejects.parquet", {}).get("rows", 0) == dropped


@pytest.mark.parametrize("stage", [name for name in RUN if stage_class(name).counts_from])
def test_what_one_stage_puts_out_the_next_takes_in(stage: str, chain: stagerun.Chain) -> None:
    taken = chain.out[stage]
    assert taken.counts_from == stage_class(stage).counts_from
    assert taken.total("items_in") == taken.given(chain.out) > 0


@pytest.mark.parametrize("stage", RUN)
def test_data_files_name_neither_host_nor_folder_nor_time(stage: str, chain: stagerun.Chain) -> None:
    told = [socket.gethostname(), str(chain.run_dir), os.uname().release]
    for unit in chain.out[stage].units:
        for name in unit["files"]:
            path = chain.out[stage].unit_dir(unit["index"]) / name
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data = json.dumps(read_table(path).to_pylist(), default=repr).encode()
            assert not [word for word in told if len(word) > 3 and word.encode() in data], path


@pytest.mark.parametrize("stage", RUN)
def test_plan_is_the_same_each_time_and_for_every_number_of_workers(stage: str, chain: stagerun.Chain) -> None:
    def plan(workers: int) -> Any:
        made = make_stage(stage, chain.settings[stage])
        inputs = {n: m for n, m in chain.out.items() if n in (*made.needs, *made.wants)}
        return make_plan(made, inputs, alone(chain.run_dir, stage, chain.settings[stage], workers=workers))

    one, seven = plan(1), plan(7)
    assert one.units == seven.units and one.fingerprint == seven.fingerprint
    assert [unit.index for unit in one.units] == list(range(len(one.units)))
    assert json.loads(json.dumps([u.inputs for u in one.units])) == [u.inputs for u in one.units]
    assert (chain.run_dir / stage_folder(stage, one.fingerprint)).is_dir()


@pytest.mark.parametrize(("stage", "settings", "remedy"), WRONG)
def test_wrong_setting_is_a_config_error_with_a_remedy(stage: str, settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_stage(stage, settings)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    "stage", ["clean", "dedup.sign", "dedup.group", "dedup.verify", "dedup.link", "dedup.drop", "chunk", "generate"]
)
def test_worker_that_has_to_stop_drops_the_open_unit(stage: str, chain: stagerun.Chain, tmp_path: Path) -> None:
    made = make_stage(stage, chain.settings[stage])
    ctx = stagerun.context(chain.out, tmp_path)
    made.setup(ctx)
    ctx.stop_requested = lambda: True
    with pytest.raises(Interrupted, match="will be redone"):
        made.run(made.plan(chain.out, tmp_path)[0], tmp_path, ctx)


def test_every_stage_of_the_registry_has_a_class_with_its_name_and_a_version() -> None:
    for name in STAGES:
        found = stage_class(name)
        assert found.name == name and found.version >= 1
        assert set(found.needs) | set(found.wants) <= {*STAGES, *ROUNDS}
    assert {*RUN, *stagerun.APART} == set(STAGES)


def test_a_round_of_a_crawl_knows_its_number_and_needs_all_before_it() -> None:
    third = make_stage("crawl.3", {"source": "site"})
    assert (third.name, third.needs, third.may_be_empty) == ("crawl.3", ("crawl", "crawl.2"), True)
    assert ROUNDS[-1] == "crawl.8" and make_stage("crawl.8", {"source": "site"}).needs == ROUNDS[:-1]
    with pytest.raises(ConfigError, match=r"no stage is called 'crawl\.9'"):
        stage_class("crawl.9")


def test_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no stage is called 'embed'; known: crawl, clean.*evaluate"):
        stage_class("embed")
