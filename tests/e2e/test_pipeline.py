"""The whole path on one machine, through the command line: baseline, distributed, resumed, and what they answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, Cli, Copy, by_stage, dropped, hashes

pytestmark = pytest.mark.timeout(900)


def test_the_distributed_run_answers_as_the_baseline(cli: Cli, baseline: Path, cluster: Path) -> None:
    done = cli("verify", "base", "p2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_seven_workers_give_the_same_hashes_as_two(cli: Cli, cluster: Path, copy: Copy) -> None:
    slow = ("encode", "retrieve.queries")  # the one is resumed with three workers below, the other has a single unit
    seven = copy("p7", *[stage for stage in by_stage(cluster) if stage not in slow])
    done = cli("retry", "run=p7", "workers=7")
    assert done.returncode == 0, done.stderr
    assert hashes(seven) == hashes(cluster)


def test_one_worker_gives_the_same_hashes_as_two(cli: Cli, baseline: Path, cluster: Path, copy: Copy) -> None:
    alone = copy("p1", "lexical", "vectors.train", "vectors.build", "retrieve.search")  # the baseline has others
    done = cli("retry", "run=p1", "workers=1")
    assert done.returncode == 0, done.stderr
    assert hashes(alone) == hashes(cluster)
    same = hashes(baseline).items() & hashes(cluster).items()
    assert {folder.rsplit("-", 1)[0] for folder, _ in same} >= {
        "crawl",
        "clean",
        "dedup.sign",
        "dedup.group",
        "dedup.verify",
        "dedup.link",
        "dedup.drop",
        "chunk",
        "encode",
        "retrieve.queries",
    }


def test_a_resume_with_other_workers_redoes_only_what_is_missing(cli: Cli, cluster: Path, copy: Copy) -> None:
    resumed = copy("resumed")
    removed = []
    for folder in sorted(resumed.glob("*-*/units")):
        stage = folder.parent.name.rsplit("-", 1)[0]
        if stage in ("dedup.sign", "encode", "lexical"):
            (folder.parent / "manifest.json").unlink()
            shutil.rmtree(folder / "unit-00001")
            removed.append(folder)
    kept = {f: (f / "unit-00000/record.json").read_bytes() for f in removed}
    done = cli("retry", "run=resumed", "workers=3")
    assert done.returncode == 0, done.stderr
    assert len(removed) == 3
    assert hashes(resumed) == hashes(cluster)
    assert all((f / "unit-00000/record.json").read_bytes() == data for f, data in kept.items())


def test_duplicates_and_short_documents_are_dropped_with_their_reason(cluster: Path) -> None:
    assert dropped(cluster, "clean") == {"too-short": 1}
    assert dropped(cluster, "dedup.drop") == {"exact-duplicate": 1, "near-duplicate": 1}


def test_counts_add_up_from_stage_to_stage(cluster: Path) -> None:
    for path in cluster.glob("*/manifest.json"):
        for unit in json.loads(path.read_bytes())["units"]:
            assert unit["items_in"] == unit["items_out"] + sum(unit["dropped"].values()), path


def test_encode_ran_by_lone_workers_and_retrieve_under_mpi(cluster: Path) -> None:
    def records(stage: str) -> list[dict[str, object]]:
        return [json.loads(p.read_bytes()) for p in cluster.glob(f"{stage}-*/units/*/record.json")]

    assert {r["launch"] for r in records("encode")} == {"array"}  # torchrun needs several machines
    assert {r["p"] for r in records("encode")} == {2}
    from rag_hpc.launchers.local import find_mpirun

    if find_mpirun() is None:
        pytest.skip("no mpirun beside this Python or on PATH: retrieve ran in one process")
    assert {(r["launch"], r["p"]) for r in records("retrieve.search")} == {("mpi", 2)}


def test_a_unit_has_at_most_three_entries(cluster: Path) -> None:
    for unit in cluster.glob("*/units/unit-*"):
        assert len(list(unit.iterdir())) <= 3, unit


def test_the_same_command_again_does_no_work(cli: Cli, corpus: Path, cluster: Path, copy: Copy) -> None:
    again = copy("again")
    done = cli("run", "run=again", "workers=2", "corpus=beir", f"corpus.path={corpus}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "17 stages finished" in done.stdout
    assert hashes(again) == hashes(cluster)
    assert list(again.glob("submissions/0002/*.log")) == []


def test_changed_settings_make_a_new_folder_beside_the_old(cli: Cli, corpus: Path, copy: Copy) -> None:
    changed = copy("changed")
    done = cli("run", "run=changed", "workers=2", "corpus=beir", f"corpus.path={corpus}", *SMALL, "stage.generate.k=2")
    assert done.returncode == 0, done.stderr
    assert len(list(changed.glob("generate-*"))) == 2
    assert len(list(changed.glob("encode-*"))) == 1


def test_status_logs_and_why_tell_of_a_finished_run(cli: Cli, cluster: Path) -> None:
    shown = cli("status", "run=p2", "--json")
    assert shown.returncode == 0, shown.stderr
    value = json.loads(shown.stdout)
    assert value["state"] == "finished"
    assert {row["state"] for row in value["stages"]} == {"finished"}
    assert "committed" in cli("logs", "encode", "run=p2").stdout
    assert cli("why", "run=p2").returncode == 0


def test_ask_answers_with_a_quotation(cli: Cli, cluster: Path) -> None:
    done = cli("ask", "Which decorator remembers results of calls?", "run=p2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "lru_cache" in found["answer"]
    assert any(p["cited"] and p["verdict"] == "quoted" for p in found["passages"])


def test_dry_run_shows_the_commands_and_creates_nothing(cli: Cli, corpus: Path, workdir: Path) -> None:
    done = cli("plan", "run=never", "corpus=beir", f"corpus.path={corpus}")
    assert done.returncode == 0, done.stderr
    assert "rag_hpc.worker" in done.stdout
    assert not (workdir / "results/runs/never").exists()


def test_each_lucene_shard_is_one_file_of_its_owner_alone(cluster: Path) -> None:
    tars = sorted(cluster.glob("lexical-*/units/*/index.tar"))
    assert len(tars) == 4
    assert all(tar.stat().st_mode & 0o077 == 0 for tar in tars)
