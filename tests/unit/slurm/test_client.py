"""What Slurm's texts mean, and that an error never means that a job is gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.errors import ClusterError, MissingDependency
from rag_hpc.slurm import states
from rag_hpc.slurm.client import CACHE_S, NoPlaces, Slurm, clean_environment, connect, explain
from rag_hpc.slurm.states import State

CONTACT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


def captures() -> Path:
    folder = Path(os.environ.get("RAG_HPC_DATA", "../shared/data")) / "slurm_outputs"
    if not folder.is_dir():
        pytest.skip(f"no captures of Slurm's output at {folder}; set RAG_HPC_DATA")
    return folder


class Scheduler:
    """Answers commands with (exit code, output, complaint), by the first words that fit; keeps what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked, self.inputs = answers, [], []  # type: ignore[var-annotated]
        self.now, self.slept = 1000.0, []  # type: ignore[var-annotated]

    def __call__(self, argv: list[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        self.asked.append(argv)
        self.inputs.append(how.get("input"))
        answer = self.answers.get(argv[0], (0, "", ""))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        code, output, complaint = (0, answer, "") if isinstance(answer, (str, bytes)) else answer
        return subprocess.CompletedProcess(
            argv, code, output if isinstance(output, bytes) else output.encode(), complaint.encode()
        )

    @property
    def slurm(self) -> Slurm:
        return Slurm(env={"PATH": "/bin:/usr/bin"}, run=self, clock=lambda: self.now, sleep=self.slept.append)


@pytest.fixture
def with_sacct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_hpc.slurm.client.shutil.which", lambda name, path=None: f"/usr/bin/{name}")


@pytest.fixture
def without_sacct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_hpc.slurm.client.shutil.which", lambda name, path=None: None)


def test_squeue_of_an_array_is_read_task_by_task() -> None:
    found = states.parse_squeue(
        "7_0|RUNNING|1-02:03:04|n[1-2]|None|a|b\n7_[3-5,9%2]|PENDING|0:00||(Priority)|x\n"
        "garbage\n|PENDING|0:00||x|x\n8|lower|0:00||x|x\n"
    )
    assert found["7_0"] == State(state="RUNNING", node="n[1-2]", elapsed_s=93784, name="a|b")
    assert {key for key, state in found.items() if state.reason == "Priority"} == {"7_3", "7_4", "7_5", "7_9"}
    assert len(found) == 5


def test_sacct_tells_exit_codes_memory_and_who_cancelled() -> None:
    found = states.parse_sacct(
        "9_1|FAILED|3:0|0:0|61|n3|cpu=1,mem=1.50G,node=1|x\n9_1.batch|FAILED|3:0|61|n3||x\n"
        "10|CANCELLED by 1001|0:15|0:0|5|None assigned|cpu=8,mem=16000M,node=4|x\n"
        "11|OUT_OF_MEMORY|0:125|0:0|5|n1||x\n12|RUNNING|0:0|0:0|5|n1||x\n"
    )
    assert found["9_1"] == State(state="FAILED", exit_code=3, elapsed_s=61, node="n3", mem_gib=1.5, name="x")
    ten = found["10"]
    assert (ten.state, ten.signal, ten.node, ten.mem_gib) == ("CANCELLED", 15, "", 3.90625)
    assert found["11"].ended and found["12"].live and found["12"].exit_code is None
    assert set(found) == {"9_1", "10", "11", "12"}


@pytest.mark.parametrize(
    ("controller", "accounting", "ending"),
    [
        ("137:0", "9:0|0:9", (0, 9)),  # a step that SIGKILL ended, and the script that passed it on
        ("130:0", "2:0|0:2", (0, 2)),  # the same by SIGINT
        ("2:0", "2:0|2:0", (2, 0)),  # an exit with 2, which means "cannot run as configured"
        ("9:0", "9:0|9:0", (9, 0)),
        ("0:15", "0:15|0:15", (0, 15)),
        ("3:0", "3:0|0:9", (3, 0)),
        ("255:0", "127:0|127:0", (255, 0)),
    ],
)
def test_an_end_reads_the_same_from_the_controller_and_from_accounting(
    controller: str, accounting: str, ending: tuple[int, int]
) -> None:
    told = states.parse_scontrol(f"JobId=5 JobName=x JobState=FAILED ExitCode={controller}\n")["5"]
    assert (told.exit_code, told.signal) == ending
    if controller != "255:0":  # accounting has no word for an exit code over 192 that is no signal
        told = states.parse_sacct(f"5|FAILED|{accounting}|5|n1||x\n")["5"]
        assert (told.exit_code, told.signal) == ending


@pytest.mark.parametrize(
    ("reason", "how", "words"),
    [
        ("Priority", "waits", "waiting in the queue (Priority): nothing to do"),
        ("Resources", "waits", "waiting in the queue (Resources): nothing to do"),
        ("", "waits", "waiting in the queue: nothing to do"),
        ("AssocMaxJobsLimit", "waits", "waiting in the queue (AssocMaxJobsLimit): nothing to do"),
        ("QOSMaxJobsPerUserLimit", "waits", "waiting in the queue"),
        ("BeginTime", "waits", "waiting for its time to start, as after a requeue (BeginTime): nothing to do"),
        ("JobArrayTaskLimit", "waits", "cluster.array_parallelism"),
        ("Dependency", "follows", "waiting for an earlier job (Dependency): nothing to do"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "waits", "see: sinfo -R"),
        ("JobHeldUser", "waits", "scontrol release"),
        ("AssocGrpCPUMinutesLimit", "waits", "cluster.account"),
        ("PartitionTimeLimit", "never", "its walltime is over the limit (PartitionTimeLimit); set cluster.time_min"),
        ("QOSMaxWallDurationPerJobLimit", "never", "set cluster.time_min lower"),
        (
            "BadConstraints",
            "never",
            "will never start: no node has what it asks for (BadConstraints); set cluster.gres",
        ),
        ("QOSMaxCpuPerJobLimit", "never", "set workers, cluster.cpus_per_task"),
        ("InvalidQOS", "never", "set cluster.qos"),
        ("DependencyNeverSatisfied", "never", "clear it: rag-hpc retry run=here"),
    ],
)
def test_reason_of_a_waiting_job_says_whether_it_starts_and_what_to_set(reason: str, how: str, words: str) -> None:
    found, text = states.outlook(reason, "here")
    assert found.value == how and words in text
    assert ("will never start" in text) == (how == "never") and ("retry" in text) == (reason == states.DEAD_DEPENDENCY)


SINFO = (
    "cpu*|1-00:00:00|(null)\ncpu*|1-00:00:00|gpu:a100:2(S:0-1),shard:8\ngpu|2:00:00|gpu:a100:4\nold|infinite|(null)\n"
)


@pytest.mark.parametrize(
    ("partition", "time_min", "gres", "said"),
    [
        (None, 1440, None, None),
        (None, 1441, None, "cluster.time_min=1441 is over the limit of 1440 minutes"),
        ("gpu", 121, None, "limit of 120 minutes"),
        ("gpu,cpu", 121, None, None),
        ("old", 10**6, None, None),
        (None, None, "gpu:2", None),
        (None, None, "gpu:a100:2,shard:4", None),
        (None, None, "gpu:3", "no node has cluster.gres=gpu:3; known: gpu:a100:2, shard:8"),
        ("gpu,cpu", 600, "gpu:4", "no node has cluster.gres=gpu:4"),  # where four are, 600 minutes are too many
        (None, None, "gpu:h100:1", "known: gpu:a100:2"),
        ("old", None, "gpu", "known: none"),
    ],
)
def test_what_no_node_gives_is_found_before_anything_is_queued(
    partition: str | None, time_min: int | None, gres: str | None, said: str | None
) -> None:
    slurm = Scheduler(sinfo=SINFO).slurm
    if said is None:
        slurm.check_offers(partition, time_min=time_min, gres=gres)
    else:
        with pytest.raises(ClusterError, match=re.escape(said)):
            slurm.check_offers(partition, time_min=time_min, gres=gres)


def test_scontrol_is_read_in_one_line_or_many() -> None:
    found = states.parse_scontrol(
        "JobId=12 ArrayJobId=11 ArrayTaskId=4 JobName=x UserId=u(1) JobState=NODE_FAIL Reason=NodeDown ExitCode=1:0 "
        "RunTime=00:02:05 ReqNodeList=(null) NodeList=n[1-4] NumNodes=4 TRES=cpu=4,mem=8G,node=4,billing=4\n\n"
        "JobId=13 JobName=y\n   JobState=PENDING Reason=Dependency Dependency=afterok:12\n   NodeList=(null)\n"
    )
    assert found["11_4"] == State(
        state="NODE_FAIL", reason="NodeDown", exit_code=1, node="n[1-4]", elapsed_s=125, mem_gib=2.0, name="x"
    )
    assert found["13"] == State(state="PENDING", reason="Dependency", name="y")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2,7%4]", ["12_0", "12_1", "12_2", "12_7"]),
        ("12_[0-10:5]", ["12_0", "12_5", "12_10"]),
        ("12_[1,3-...]", ["12_1"]),
        ("12+1", ["12+1"]),
        ("12_[x]", ["12"]),
    ],
)
def test_ids(text: str, ids: list[str]) -> None:
    assert states.expand_ids(text) == ids


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:07", 7), ("1:02:03", 3723), ("2-00:00:00", 172800), ("95", 95), ("INVALID", None), ("", None), ("N/A", None)],
)
def test_elapsed(text: str, seconds: int | None) -> None:
    assert states.parse_elapsed(text) == seconds


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (states.parse_squeue, states.parse_sacct, states.parse_scontrol):
        assert all(isinstance(state, State) for state in parse(text).values())


def test_real_squeue_with_a_name_that_is_not_utf8() -> None:
    text = (captures() / "osc_ood_core" / "non_utf8_job_name.txt").read_bytes().decode(errors="replace")
    header, row = text.split("\n")[:2]
    plain = {"STATE": "state", "EXEC_HOST": "node", "TIME": "elapsed", "REASON": "reason", "NAME": "name"}
    names = [plain.get(word, f"other{i}") for i, word in enumerate(header.split("\x1f"))]
    names[15] = "id"  # the second of two columns called JOBID, that with the task
    [(job_id, state)] = states.parse_squeue(row, names, "\x1f").items()
    assert (job_id, state.state, state.node, state.elapsed_s) == ("29471683_9", "COMPLETED", "p0220", 185)


@pytest.mark.parametrize("version", ["slurm-24.11.7", "slurm-26.05.2"])
def test_real_squeue_of_two_versions(version: str) -> None:
    text = (captures() / "sckyzo_slurm_exporter" / version / "squeue_jobs.txt").read_text()
    columns = ("id", "account", "user", "partition", "state", "nodes", "cpus", "tres")
    found = states.parse_squeue(text, columns)
    assert len(found) == len(text.splitlines()) and {s.state for s in found.values()} == {"RUNNING", "PENDING"}
    assert all(state.mem_gib and 1 < state.mem_gib < 17 for state in found.values())


def test_real_sacct_with_a_delimiter_of_three_bytes() -> None:
    text = (captures() / "rug_hb_jobinfo" / "sacct.txt").read_text(encoding="utf-8")
    columns = [
        "id",
        "name",
        "user",
        "partition",
        "node",
        "nnodes",
        "ncpus",
        "ntasks",
        "state",
        "submit",
        "start",
        "end",
        "limit",
        "elapsed",
        "total",
        "cpu",
        "user_cpu",
        "sys_cpu",
        "reqmem",
        "rss",
        "vm",
        "tres",
        "rest",
    ]
    found = states.parse_sacct(text, columns, "☃")
    words = {state.state for state in found.values()}
    assert words == {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PENDING", "RUNNING"}
    assert found["4034541"].node == "a100gpu2" and found["4034541"].mem_gib == 199 and "5908801_3" in found
    assert not any("." in key for key in found)


def test_real_sacct_of_four_thousand_jobs() -> None:
    zstandard = pytest.importorskip("zstandard")
    packed = (captures() / "ubccr_xdmod" / "phillips.log.zst").open("rb")
    with packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        text = stream.read().decode(errors="replace")
    columns = [
        "id",
        "raw",
        "cluster",
        "partition",
        "qos",
        "account",
        "group",
        "gid",
        "user",
        "uid",
        "submit",
        "eligible",
        "start",
        "end",
        "elapsed",
        "exit",
        "state",
        "nnodes",
        "ncpus",
        "reqcpus",
        "reqmem",
        "tres",
        "rest",
    ]
    found = states.parse_sacct(text, columns)
    assert len(found) > 4000 and all(state.ended and state.exit_code is not None for state in found.values())
    assert found["165381"].state == "TIMEOUT" and found["165381"].elapsed_s == 432026


def test_real_scontrol() -> None:
    text = (captures() / "mila_clockwork" / "scontrol_job_2").read_text()
    found = states.parse_scontrol(text)
    assert {state.state for state in found.values()} == {"PENDING"} and set(found) >= {"1", "2"}
    assert found["2"].mem_gib == 40 and found["2"].reason.startswith("ReqNodeNotAvail")


def test_states_cost_one_call_of_squeue_when_it_knows_all(with_sacct: None) -> None:
    scheduler = Scheduler(squeue="1_0|RUNNING|0:01|n1|None|x\n2|PENDING|0:00||Dependency|x\n")
    found = scheduler.slurm.states(["2", "1", "2"])
    assert [argv[0] for argv in scheduler.asked] == ["squeue"] and "1,2" in scheduler.asked[0]
    assert set(found) == {"1_0", "2"}


def test_what_squeue_has_forgotten_is_asked_of_sacct_once(with_sacct: None) -> None:
    scheduler = Scheduler(
        squeue="2|RUNNING|0:01|n1|None|x\n", sacct="1|FAILED|1:0|0:0|5|n1||x\n3|COMPLETED|0:0|0:0|5|n1||x\n"
    )
    found = scheduler.slurm.states(["1", "2", "3", "4"])
    assert [argv[0] for argv in scheduler.asked] == ["squeue", "sacct"] and "1,3,4" in scheduler.asked[1]
    assert {key: state.state for key, state in found.items()} == {
        "1": "FAILED",
        "2": "RUNNING",
        "3": "COMPLETED",
        "4": "UNKNOWN",
    }
    assert not found["4"].ended and not found["4"].live


@pytest.mark.parametrize(
    "answer",
    [
        (1, "", CONTACT),
        (1, "", "slurm_load_jobs error: Invalid job id specified"),
        subprocess.TimeoutExpired("squeue", 1),
    ],
)
def test_error_is_unknown_never_gone(without_sacct: None, answer: Any) -> None:
    [state] = Scheduler(squeue=answer).slurm.states(["1"]).values()
    assert state.state == "UNKNOWN" and state.reason and not state.ended


def test_accounting_is_believed_about_live_jobs_only_when_the_controller_answers(with_sacct: None) -> None:
    scheduler = Scheduler(squeue=(1, "", CONTACT), sacct="1|FAILED|1:0|0:0|5|n1||x\n2|RUNNING|0:0|0:0|5|n1||x\n")
    found = scheduler.slurm.states(["1", "2"])
    assert (found["1"].state, found["2"].state) == ("FAILED", "UNKNOWN") and "contact" in found["2"].reason


def test_site_without_accounting_still_knows_live_jobs(with_sacct: None) -> None:
    scheduler = Scheduler(squeue="2|RUNNING|0:01|n1|None|x\n", sacct=(1, "", "Slurm accounting storage is disabled"))
    assert {key: s.state for key, s in scheduler.slurm.states(["1", "2"]).items()} == {"1": "UNKNOWN", "2": "RUNNING"}


def test_scheduler_is_asked_at_most_every_thirty_seconds(without_sacct: None, tmp_path: Path) -> None:
    scheduler, cache = Scheduler(squeue=b"1|RUNNING|0:01|n1|None|\xff"), tmp_path / "c"
    first = scheduler.slurm.states(["1", "9"], cache=cache)
    scheduler.now += CACHE_S - 1
    assert scheduler.slurm.states(["9"], cache=cache) == first and len(scheduler.asked) == 1
    assert "1" in scheduler.slurm.states(["1", "2"], cache=cache) and len(scheduler.asked) == 2  # 2 is a new job
    scheduler.now += CACHE_S
    scheduler.slurm.states(["1"], cache=cache)
    cache.write_text("{broken")
    scheduler.slurm.states(["1"], cache=cache)
    assert len(scheduler.asked) == 4


def test_failed_query_is_not_repeated_within_thirty_seconds(without_sacct: None, tmp_path: Path) -> None:
    scheduler = Scheduler(squeue=(1, "", CONTACT))
    for _ in range(3):
        assert scheduler.slurm.states(["1"], cache=tmp_path / "c")["1"].state == "UNKNOWN"
    assert len(scheduler.asked) == 1


def test_details_ask_the_controller_first_and_accounting_for_the_rest(with_sacct: None) -> None:
    scheduler = Scheduler(
        scontrol=["JobId=1 JobState=FAILED ExitCode=2:0\n", (1, "", "Invalid job id specified")],
        squeue=(1, "", "Invalid job id specified"),
        sacct="2|OUT_OF_MEMORY|0:125|0:0|5|n1|mem=2G,node=1|x\n",
    )
    found = scheduler.slurm.details(["1", "2"])
    assert found["1"].exit_code == 2 and (found["2"].state, found["2"].mem_gib) == ("OUT_OF_MEMORY", 2.0)


def test_submit_sends_the_script_and_reads_the_id() -> None:
    scheduler = Scheduler(sbatch="Welcome to our site!\n4711;cluster\n")
    assert scheduler.slurm.submit("#!/bin/bash\n", args=["--hold"]) == "4711"
    assert scheduler.asked == [["sbatch", "--parsable", "--hold"]] and scheduler.inputs == [b"#!/bin/bash\n"]
    with pytest.raises(ClusterError, match="no job id"):
        Scheduler(sbatch="queued!\n").slurm.submit("x")


def test_controller_that_restarts_is_waited_for() -> None:
    scheduler = Scheduler(sbatch=[(1, "", f"sbatch: error: {CONTACT}"), (1, "", CONTACT), "7\n"])
    assert scheduler.slurm.submit("x") == "7" and scheduler.slept == [5.0, 10.0]
    scheduler = Scheduler(sbatch=(1, "", CONTACT))
    with pytest.raises(ClusterError, match="does not answer; try again"):
        scheduler.slurm.submit("x")
    assert scheduler.slept == [5.0, 10.0, 15.0, 15.0, 15.0]


MUNGE = (
    'error: If munged is up, restart with --num-threads=10\nerror: Munge encode failed: Failed to access "/run/munge/'
    'munge.socket.2": No such file or directory\nerror: Protocol authentication error'
)


@pytest.mark.parametrize("complaint", [CONTACT, MUNGE, "slurm_load_partitions error: Socket timed out on send/recv"])
def test_every_call_of_a_submit_waits_for_the_controller(complaint: str, caplog: pytest.LogCaptureFixture) -> None:
    """sinfo was not asked again while sbatch would have been, and munge's trouble counted as a refusal."""
    away = [(1, "", complaint), (1, "", complaint)]
    scheduler = Scheduler(
        sinfo=[*away, "cpu*|up|4\n"],
        squeue=[*away, "7|rh-x\n"],
        scontrol=[*away, "MaxArraySize = 9\n"],
        scancel=[*away, ""],
    )
    slurm = scheduler.slurm
    assert slurm.check_partition("cpu") == 4 and slurm.queued() == {"7": "rh-x"} and slurm.max_array_size() == 9
    slurm.cancel(["7"])
    assert scheduler.slept == [5.0, 10.0] * 4
    assert "does not answer (sinfo: " in caplog.text and caplog.text.count("trying for another 60 s") == 4


def test_patience_is_a_minute_for_all_calls_together(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(sinfo=(1, "", MUNGE), squeue=(1, "", CONTACT))

    def sleep(seconds: float) -> None:
        scheduler.slept.append(seconds)
        scheduler.now += seconds + 9  # which the next call takes to fail

    slurm = Slurm(env={"PATH": "/bin"}, run=scheduler, clock=lambda: scheduler.now, sleep=sleep)
    with pytest.raises(ClusterError, match=r"Munge encode failed.*try munge -n"):
        slurm.check_partition("cpu")
    assert scheduler.slept == [5.0, 10.0, 15.0, 3.0]
    with pytest.raises(ClusterError, match="Unable to contact"):
        slurm.queued()
    assert len(scheduler.slept) == 4 and caplog.text.count("does not answer") == 1


def test_queue_is_told_by_one_line_a_job_whatever_a_site_prints_before() -> None:
    scheduler = Scheduler(squeue="Welcome|to our site\n12|rh-run-x-1a.2\n 13|a|b \n")
    assert scheduler.slurm.queued() == {"12": "rh-run-x-1a.2", "13": "a|b"}
    assert scheduler.asked == [["squeue", "--me", "-h", "-o", "%F|%j"]]


def test_limit_on_queued_jobs_is_told_from_other_limits() -> None:
    policy = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ..."
    for word in ("AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "AssocGrpSubmitJobsLimit"):
        with pytest.raises(NoPlaces, match=f"{word}.*wait until some have ended"):
            Scheduler(sbatch=(1, "", f"sbatch: error: {word}\nsbatch: error: {policy}")).slurm.submit("x")
    with pytest.raises(ClusterError) as caught:
        Scheduler(sbatch=(1, "", f"sbatch: error: QOSMaxCpuPerUserLimit\nsbatch: error: {policy}")).slurm.submit("x")
    assert not isinstance(caught.value, NoPlaces)


def test_answer_that_got_lost_is_not_sent_again() -> None:
    scheduler = Scheduler(sbatch=(1, "", "sbatch: error: Socket timed out on send/recv operation"))
    with pytest.raises(ClusterError, match="Socket timed out"):
        scheduler.slurm.submit("x")
    assert len(scheduler.asked) == 1  # the job may have been queued


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Invalid account or account/partition combination specified", "set cluster.account"),
        ("Memory specification can not be satisfied", "lower cluster.mem_gib"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "lower cluster.time_min"),
        ("Requested node configuration is not available", "ask for less"),
        ("Invalid generic resource (gres) specification", "set cluster.gres"),
        ("Node count specification invalid", "lower workers"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit is reached"),
        ("Invalid qos specification", "set cluster.qos"),
        ("something new", "rag-hpc plan"),
    ],
)
def test_refusal_is_quoted_with_its_remedy(said: str, remedy: str) -> None:
    with pytest.raises(ClusterError) as caught:
        Scheduler(sbatch=(1, "", f"sbatch: error: Batch job submission failed: {said}\n")).slurm.submit("x")
    assert said in str(caught.value) and remedy in str(caught.value)


def test_missing_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="no sbatch, squeue"):
        Slurm(env={"PATH": str(tmp_path)}).require()
    with pytest.raises(MissingDependency, match="no sbatch on PATH"):
        Scheduler(sbatch=FileNotFoundError("sbatch")).slurm.submit("x")


def test_cancel_takes_one_call_and_forgives_jobs_that_ended() -> None:
    scheduler = Scheduler(scancel=(1, "", "scancel: error: Kill job error on job id 2: Invalid job id specified"))
    scheduler.slurm.cancel(["2", "10", "2"])
    assert scheduler.asked == [["scancel", "--quiet", "10", "2"]]
    scheduler.slurm.cancel([])
    assert len(scheduler.asked) == 1
    with pytest.raises(ClusterError, match="Access"):
        Scheduler(scancel=(1, "", "scancel: error: Access/permission denied")).slurm.cancel(["2"])


def test_partitions_are_checked_by_one_call() -> None:
    scheduler = Scheduler(sinfo="cpu*|up|4\ngpu|up|2\ngpu|up|1\nold|drain|9\n")
    assert [scheduler.slurm.check_partition(name) for name in (None, "cpu", "gpu", "cpu,gpu")] == [4, 4, 3, 3]
    assert len(scheduler.asked) == 4
    with pytest.raises(ClusterError, match=r"partition 'x' does not exist; known: cpu, gpu, old \(closed\)"):
        scheduler.slurm.check_partition("x")
    with pytest.raises(ClusterError, match=r"no default partition; set cluster\.partition"):
        Scheduler(sinfo="gpu|up|2\n").slurm.check_partition(None)


def test_commands_for_single_jobs() -> None:
    scheduler = Scheduler(scontrol="MaxArraySize            = 101\n")
    slurm = scheduler.slurm
    assert slurm.max_array_size() == 101 and Scheduler(scontrol="").slurm.max_array_size() is None
    slurm.release(["5", "6"])
    assert [argv[1:] for argv in scheduler.asked[1:]] == [["release", "5,6"]]


def test_environment_of_jobs_is_clean() -> None:
    foreign = {
        "SLURM_JOB_ID": "1",
        "TMPDIR": "/tmp/1",
        "SBATCH_QOS": "x",
        "PMI_RANK": "0",
        "OMPI_MCA_btl": "x",
        "WORLD_SIZE": "4",
        "CUDA_VISIBLE_DEVICES": "",
        "RAG_HPC_LAUNCH": "mpi",
        "OPENAI_API_KEY": "s",
        "HF_TOKEN": "s",
        "DB_PASSWORD": "s",
    }
    kept = {"PATH": "/bin", "RAG_HPC_LOG": "DEBUG", "TOKENIZERS_PARALLELISM": "false", "KEYBOARD": "us"}
    env = {**kept, **foreign, "SLURM_CONF": "/theirs"}
    assert clean_environment(env) == {**kept, "SLURM_CONF": "/theirs"}
    assert clean_environment(env, "/ours")["SLURM_CONF"] == "/ours"
    assert clean_environment({"TMPDIR": "/scratch"}) == {"TMPDIR": "/scratch"}


def test_devcluster_that_is_down_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_HPC_DEVCLUSTER", "/nowhere/devcluster")
    with pytest.raises(ClusterError, match="devcluster is not up; run: rag-hpc devcluster up"):
        connect("devcluster")
    assert connect("devcluster", "/etc/x").env["SLURM_CONF"] == "/etc/x"


def test_devcluster_whose_controller_is_away_is_not_taken_for_one_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from rag_hpc.slurm import devcluster

    away = {"up": False, "slurm_conf": "/state/slurm.conf", "daemons": {"munged": True, "slurmctld": False}}
    monkeypatch.setattr(devcluster, "status", lambda: away)
    assert connect("devcluster").env["SLURM_CONF"] == "/state/slurm.conf"


def test_only_one_module_speaks_to_slurm() -> None:
    import ast

    root = Path(__file__).parents[3]
    words = {"sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo"}
    found = set()
    for folder in ("rag_hpc", "launchers", "slurm", "eval"):
        for path in (root / folder).rglob("*.py"):
            lists = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List)]
            first = [node.elts[0] for node in lists if node.elts]
            if any(isinstance(e, ast.Constant) and e.value in words for e in first) and "devcluster" not in path.parts:
                found.add(path.relative_to(root).as_posix())
    assert found == {"slurm/client.py"}


def test_explanation_keeps_the_last_lines_only() -> None:
    said = explain("sbatch", "\n".join(f"sbatch: error: line {i}" for i in range(9)))
    assert said.startswith("sbatch: line 6; line 7; line 8. ") and json.dumps(said)
