"""What each stage's jobs ask for: the site's resources, a stage's own, and further flags of sbatch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, record

from rag_hpc import cli
from rag_hpc.config import compose
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ClusterError, ConfigError
from rag_hpc.launchers import array, chain
from rag_hpc.slurm import scripts
from rag_hpc.slurm.cluster import OWN_FLAGS, StageResources
from tests.unit.launchers.test_scripts import FULL, flags, job

Ask = Callable[..., Request]


def own(**stages: dict[str, Any]) -> dict[str, StageResources]:
    return {name.replace("_", "."): StageResources(**values) for name, values in stages.items()}


def test_a_stage_asks_for_its_own_in_place_of_the_site_s_and_gates_for_the_site_s(
    ledger: Ledger, offers: FakeSlurm, ask: Ask
) -> None:
    stages = own(toy_each={"partition": "gpu", "gres": "gpu:a100:1", "time_min": 20, "cpus_per_task": 6, "mem_gib": 8})
    site = {"partition": "cpu", "time_min": 90, "mem_gib": 2.0, "stages": stages}
    chain.submit(ledger, ask("toy.source", "toy.each", cluster=site, workers=5))
    source, gate, each, last = (found["flags"] for found in offers.jobs())
    names = ("partition", "gres", "time", "mem", "cpus-per-task")
    assert [source.get(name) for name in names] == ["cpu", None, "90", "2048M", None]
    assert [each.get(name) for name in names] == ["gpu", "gpu:a100:1", "20", "8192M", "6"]
    assert each["nodes"] == "2"  # as many as its own partition has
    assert (
        [gate.get(name) for name in names] == [last.get(name) for name in names] == ["cpu", None, "60", "2048M", None]
    )
    script = offers.jobs()[2]["script"]
    assert "export RAG_HPC_WALLTIME_S=1200\n" in script and "srun --kill-on-bad-exit=1 --cpus-per-task=6 " in script


def test_only_stages_that_use_gpus_get_the_site_s_and_any_stage_those_of_its_own(
    ledger: Ledger, offers: FakeSlurm, ask: Ask
) -> None:
    asked = ("toy.source", "toy.each", "toy.gather")
    chain.submit(ledger, ask(*asked, cluster={"partition": "gpu", "gres": "gpu:1"}))
    assert [found["flags"].get("gres") for found in offers.jobs()[::2]] == [None, "gpu:1", None]
    chain.submit(ledger, ask(*asked, cluster={"partition": "gpu", "stages": own(toy_gather={"gres": "gpu:2"})}))
    assert [found["flags"].get("gres") for found in offers.jobs()[6::2]] == [None, None, "gpu:2"]


def test_the_name_of_a_stage_goes_before_that_of_its_group() -> None:
    given = ["cluster.stages.dedup={mem_gib: 8, partition: big}", "cluster.stages.dedup.link.mem_gib=64"]
    sites = [compose(["cluster=slurm", *given]).cluster.of(name) for name in ("dedup.sign", "dedup.link", "encode")]
    assert [(site.mem_gib, site.partition) for site in sites] == [(8, "big"), (64, "big"), (None, None)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gres": "gpu:a100:1"}, r"no node has cluster\.stages\.toy\.each\.gres=gpu:a100:1; known: none"),
        (
            {"partition": "gpu", "gres": "gpu:9", "time_min": 30},
            r"partition gpu: no node has cluster\.stages\.toy\.each\.gres=gpu:9",
        ),
        ({"partition": "gpu"}, r"partition gpu: cluster\.time_min=90 is over the limit of 60 minutes"),
        ({"time_min": 121}, r"cluster\.stages\.toy\.each\.time_min=121 is over the limit of 120 minutes"),
        ({"partition": "fast"}, r"partition 'fast' does not exist; known: cpu, gpu, old \(closed\)"),
    ],
)
def test_what_no_node_gives_to_one_stage_is_refused_before_anything_is_queued(
    ledger: Ledger, offers: FakeSlurm, ask: Ask, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ClusterError, match=said):
        chain.submit(ledger, ask("toy.source", "toy.each", cluster={"time_min": 90, "stages": own(toy_each=values)}))
    assert offers.jobs() == [] and ledger.submissions() == []


def test_out_of_memory_asks_for_more_where_the_stage_has_its_own(
    ledger: Ledger, offers: FakeSlurm, ask: Ask, run_gate: Callable[..., int]
) -> None:
    chain.submit(ledger, ask(cluster={"mem_gib": 1.0, "stages": own(toy={"mem_gib": 3})}))
    offers.says("job-1", record(1, "OUT_OF_MEMORY", "0:125", mem="3G", task=0))
    assert run_gate(ledger) == 3
    assert [found["flags"]["mem"] for found in offers.jobs()[4:6]] == ["6144M", "1024M"]


def test_further_flags_are_on_every_job_quoted_and_alone_where_they_have_no_value() -> None:
    site = dataclasses.replace(FULL, sbatch={"comment": "my thesis", "mail-type": "END,FAIL", "exclusive": "True"})
    texts = [
        scripts.mpi_script(job(), site),
        scripts.torchrun_script(job(Launch.torchrun), site),
        scripts.gate_script(job(), site),
        *array.array_texts(job(Launch.array), site, max_size=10),
    ]
    for text in texts:
        assert {"comment='my thesis'", "mail-type=END,FAIL", "exclusive"} <= set(flags(text))


def test_flags_that_the_launcher_sets_are_refused_by_name() -> None:
    made = job(wants_gpu=True)
    texts = [scripts.mpi_script(made, FULL), scripts.torchrun_script(made, FULL), scripts.gate_script(made, FULL)]
    texts += array.array_texts(job(Launch.array), FULL, max_size=10, dependency="afterok:1")
    sent = {flag.split("=")[0] for text in texts for flag in flags(text)}
    assert len(sent) > 15 and sent <= OWN_FLAGS.keys()
    for name in sent:
        with pytest.raises(ConfigError, match=rf"cluster\.sbatch\.{name}: that is for the launcher to set; "):
            compose(["cluster=slurm", f"cluster.sbatch.{name}=x"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cluster.sbatch.time=30", "set cluster.time_min"),
        ("cluster.sbatch.gpus-per-node=1", "set cluster.gres"),
        ("cluster.sbatch.cpus-per-task=2", "set cluster.cpus_per_task"),
        ("cluster.sbatch.N=2", "the long name of a flag of sbatch is needed, such as mail-type"),
        ("cluster.sbatch={mail-type: [END]}", "a text is needed"),
        ('cluster.sbatch.comment="a\n#SBATCH --uid=0"', "holds a line break"),
        ("cluster.stages.encode.account=[x]", "account"),
        ("cluster.stages.encode.mem_gib=-1", "0 is the whole node"),
        ("cluster.stages.encod.gres=gpu", "no such stage; did you mean cluster.stages.encode? known: crawl, clean"),
        ("cluster.stages.encode.gress=gpu", "A stage's own resources are: account, partition, qos"),
        ('cluster.stages.encode.qos="a\n#SBATCH --uid=0"', "holds a line break"),
    ],
)
def test_what_no_job_could_be_asked_with_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["cluster=slurm", override])
    assert said in str(caught.value)


def test_keys_of_the_user_s_own_need_no_plus_and_add_to_those_of_the_site_s_file(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text(
        "name: mine\nlauncher: slurm\nstages: {encode: {partition: gpu}}\nsbatch: {comment: thesis}\n"
    )
    given = ["cluster.stages.encode={gres: gpu:a100:1, time_min: 240}", 'cluster.sbatch={mail-type: "END,FAIL"}']
    cluster = compose(
        ["cluster=mine", *given, "cluster.stages.crawl.2.qos=low", "cluster.env.HF_HUB_OFFLINE=1"], tmp_path
    ).cluster
    encode = cluster.of("encode")
    assert (encode.partition, encode.gres, encode.time_min) == ("gpu", "gpu:a100:1", 240)
    assert cluster.sbatch == {"comment": "thesis", "mail-type": "END,FAIL"}
    assert cluster.env == {"HF_HUB_OFFLINE": "1"}
    assert [cluster.of(name).qos for name in ("crawl", "crawl.2")] == [None, "low"]


@pytest.mark.parametrize(
    "name", ["partition=gpu", "gres=gpu:1", "time_min=5", "sbatch.comment=x", "stages.encode.qos=x"]
)
def test_what_only_slurm_is_asked_for_is_refused_on_this_machine(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", f"cluster.{name}"]) == 2
    said = capsys.readouterr().err
    assert (
        f"cluster.{name.split('=')[0].split('.')[0]}: cluster=local is this machine" in said and "--config-dir" in said
    )


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_a_site_that_is_not_found_says_where_its_file_belongs(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, "cluster=mine"]) == 2
    said = capsys.readouterr().err
    assert "slurm.yaml site/cluster/mine.yaml" in said and "--config-dir site" in said
    (tmp_path / "lab" / "cluster").mkdir(parents=True)
    (tmp_path / "lab" / "cluster" / "mine.yaml").write_text("name: mine\nlauncher: slurm\n")
    assert cli.main([verb, "cluster=mine"]) == 2
    assert "lab/cluster/mine.yaml is there: add --config-dir lab" in capsys.readouterr().err
