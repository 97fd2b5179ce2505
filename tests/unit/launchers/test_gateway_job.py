"""A gateway as a job of Slurm: what is submitted, how it is seen from elsewhere, and that it goes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.serve.ask import NEEDED, SETTINGS
from rag_hpc.serve.gateway import places
from rag_hpc.serve.gateway.places import ASKED, DOORS, FOLDER, Asked, Doors, GatewayPlace

SITE = ["cluster=slurm", "cluster.time_min=60", "cluster.interface=lo"]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "runs" / "r")
    made.create({})
    stages = [*NEEDED, *SETTINGS]
    made.submit(Request(run="r", number=0, stages=stages, settings={}, workers=1, cluster={"root": None}))
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """The port of what answers as a gateway that is ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "up", "coverage": "2/2"}')

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_it_is_queued_seen_where_it_answers_and_gone_with_down(
    ledger: Ledger, slurm: FakeSlurm, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run, place = f"run={ledger.run_dir}", GatewayPlace(ledger.run_dir, "1")
    assert main(["serve", "gateway", run, *SITE, "gateway.listen=node", "gateway.port=0"]) == 0
    (job,) = slurm.jobs()
    assert job["held"] and job["name"] == "rh-r-gateway.1" and job["flags"]["time"] == "60"
    assert "RAG_HPC_WALLTIME_MARGIN_S=30" in job["script"] and "rag_hpc.launchers.gatekeeper" in job["script"]
    assert "scontrol requeue" in job["script"] and "#SBATCH --requeue" in job["script"]
    assert ["release", "1"] in [call["argv"] for call in slurm.calls("scontrol")]
    asked = place.asked()
    assert (asked.job, asked.interface, place.address()) == ("1", "lo", "127.0.0.1")

    slurm.says("squeue", "1|RUNNING|1:00|n7|None|rh-r-gateway.1\n")
    capsys.readouterr()
    assert main(["serve", "status", run]) == 3
    assert "gateway 1: starting, job 1  job 1: RUNNING" in capsys.readouterr().out
    place.write(DOORS, Doors(host="n7", pid=1, owner="/s/owner", edge="/s/edge", port=port, address="127.0.0.1"))
    assert main(["serve", "status", run, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["state"], told["groups"], told["doors"]["host"]) == ("up", "2/2", "n7")
    assert main(["serve", "tunnel", run]) == 0
    assert f"ssh -N -L 8080:/s/owner -J {os.uname().nodename} n7 " in capsys.readouterr().out
    certificate = ["edge.cert=/c", "edge.key=/k"]
    assert main(["serve", "edge", run, *certificate]) == 1
    assert "on other nodes" in capsys.readouterr().err
    assert main(["serve", "gateway", run, *SITE]) == 2
    assert "gateway 1 is up" in capsys.readouterr().err

    assert main(["serve", "down", run]) == 0
    assert slurm.calls("scancel")[-1]["argv"][-1] == "1" and not (ledger.run_dir / FOLDER).exists()


def test_a_gateway_that_cannot_be_submitted_leaves_nothing(ledger: Ledger, slurm: FakeSlurm) -> None:
    slurm.says("refuse-sbatch", "sbatch: error: invalid partition specified: none")
    assert main(["serve", "gateway", f"run={ledger.run_dir}", *SITE]) != 0
    assert not (ledger.run_dir / FOLDER).exists()


def test_the_port_is_of_the_loopback_unless_the_node_s_address_is_asked_for(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "node_address", {"x0": "10.0.0.7"}.__getitem__)
    place = GatewayPlace(ledger.run_dir, "1")
    place.create()
    for settings, address in (({}, "127.0.0.1"), ({"listen": "node", "port": 0}, "10.0.0.7")):
        asked = Asked(run="r", run_dir=str(place.run_dir), name="1", submission=1, interface="x0", settings=settings)
        place.write(ASKED, asked)
        assert place.address() == address
    place.remove()
    for words, said in ((["gateway.listen=all"], "loopback or node"), (["gateway.listen=node"], "gateway.port=0")):
        assert main(["serve", "gateway", f"run={ledger.run_dir}", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_run_that_no_answer_can_be_made_of_is_refused_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = Ledger(tmp_path / "runs" / "searched")
    searched.create({})
    stages = [*NEEDED, "retrieve.queries", "retrieve.search"]
    searched.submit(Request(run="searched", number=0, stages=stages, settings={}, workers=1, cluster={"root": None}))
    assert main(["serve", "gateway", f"run={searched.run_dir}"]) == 2
    assert "run=searched: its pipeline has no generate, so nothing can be asked of it" in capsys.readouterr().err
    assert not (searched.run_dir / ".gateways").exists()
