"""`python -m rag_hpc.launchers.gate RUN_DIR SUBMISSION STAGE`: the small job after a stage's workers.

It closes the stage and plans the next; or, with units left, finds out why and resubmits the rest of the chain; or
stops it with a reason and cancels what can no longer run. Exit code 0 lets the next stage's workers start; 3 says that
work is left, 1 that something has to be mended first.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core import commit
from rag_hpc.core.failures import failures
from rag_hpc.core.fs import drop_dir, publish_file
from rag_hpc.core.ledger import Submission, open_run
from rag_hpc.core.log import configure
from rag_hpc.core.plan import Plan, plan_path, read_plan, run_dir_of
from rag_hpc.core.stage import Launch
from rag_hpc.core.stored import sealed_json
from rag_hpc.core.trust import umask_of
from rag_hpc.errors import ClusterError, RagHpcError
from rag_hpc.launchers import chain
from rag_hpc.launchers.advance import advance
from rag_hpc.slurm.client import Slurm
from rag_hpc.slurm.scripts import submission_of
from rag_hpc.slurm.states import State, of_job
from rag_hpc.stages.registry import stage_class

log = logging.getLogger(__name__)
MISCONFIGURED = (2, 126, 127)  # the worker's own word, and the shell's for "cannot run" and "not found"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to become of a stage that has units left."""

    again: bool
    cause: str  # Slurm's word, or what the exit code meant
    reason: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the cluster's settings, for the next try


def main(argv: list[str] | None = None) -> int:
    """Run the gate; return the process's exit code."""
    run_dir, number, stage = (argv or sys.argv[1:])[:3]
    configure(prefix=f"gate({stage})")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))  # so that half a chain is cleared away
    try:
        submission = open_run(Path(run_dir)).submission(int(number))
    except RagHpcError as error:
        log.error("%s", error)
        return error.exit_code
    os.umask(mask := umask_of(submission.run_dir))
    if (own_log := submission.folder / "gates.log").exists():  # Slurm made it, for nobody but us
        own_log.chmod(0o666 & ~mask)
    gate = Gate(submission, stage, chain.slurm_of(submission.request))
    if gate.superseded():
        log.warning("submission %d was superseded by a later one", submission.number)
        gate.clear()
        return 3
    try:
        return gate.decide()
    except RagHpcError as error:
        return gate.stop(str(error), cause=type(error).__name__, exit_code=3 if error.exit_code == 3 else 1)
    except Exception as error:  # a bug must not leave a chain behind that waits for ever
        log.exception("the gate failed")
        where = submission.folder / "gates.log"
        return gate.stop(
            f"the gate itself failed: {error!r}; please report it with {where}", cause=type(error).__name__, exit_code=1
        )


class Gate:
    """One gate at work."""

    def __init__(self, submission: Submission, stage: str, slurm: Slurm) -> None:
        self._submission, self._stage, self._slurm = submission, stage, slurm
        self._ledger, self._request = submission.ledger, submission.request

    def superseded(self) -> bool:
        """Whether a later submission was queued in full: then this gate's chain is no longer the run's."""
        own = self._submission.number
        return any(job["kind"] == "released" and job["submission"] > own for job in self._ledger.jobs())

    def clear(self) -> None:
        """Cancel what waits for this gate and can no longer run."""
        chain.clear(self._ledger, self._slurm, [self._submission.number])

    def decide(self) -> int:
        """Close, resubmit or stop; return the exit code."""
        pack_logs(self._submission.folder, self._stage)
        if lost := self._lost_gate():
            reason = (
                f"{lost}: its gate was preempted, cancelled or lost its node before it decided; "
                f"go on: rag-hpc retry run={self._ledger.handle}"
            )
            return self.stop(reason, cause="GATE_LOST", exit_code=3)
        progress = advance(self._submission)
        if self._stage in progress.finished:
            chain.go_on(self._submission, self._stage, progress.open_plan, self._slurm)
            self._write("passed", cause="", reason="")
            log.info("%s passed; next: %s", self._stage, progress.stage or "nothing, the run is finished")
            return 0
        plan = progress.open_plan
        if plan is None or plan.stage != self._stage:
            raise ClusterError(
                f"{self._stage}: an earlier stage, {progress.stage}, is no longer complete; run: "
                f"rag-hpc retry run={self._ledger.handle}"
            )
        return self._go_on(plan)

    def _lost_gate(self) -> str | None:
        """Return the stage before this one whose gate said nothing: this gate starts then because the workers went."""
        earlier = self._request.stages[: self._request.stages.index(self._stage)]
        decided = self._submission.outcomes()
        gates = [job["stage"] for job in self._submission.jobs() if job["kind"] == "gate"]
        return next((stage for stage in earlier if stage in gates and stage not in decided), None)

    def _go_on(self, plan: Plan) -> int:
        verdict, done = self._verdict(plan), made_progress(self._ledger.run_dir, plan)
        tries = 0 if done else self._request.resubmits
        limit = int(self._request.cluster["max_resubmits"])
        if not verdict.again:
            return self.stop(verdict.reason, cause=verdict.cause, exit_code=1)
        if tries >= limit:
            return self.stop(
                f"{verdict.reason}; the last {tries + 1} tries committed no unit. Mend the cause and run: "
                f"rag-hpc retry run={self._ledger.handle}",
                cause=verdict.cause,
                exit_code=3,
            )
        cluster = self._changed(verdict.changes)
        request = dataclasses.replace(self._request, resubmits=tries + 1, reason=verdict.reason, cluster=cluster)
        new = chain.submit(self._ledger, request, slurm=self._slurm)
        self._write("resubmitted", cause=verdict.cause, reason=verdict.reason, submission=new.number)
        log.warning("%s; resubmitted as submission %d", verdict.reason, new.number)
        return 3

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cluster's settings with changes: of a resource that is the stage's own, there."""
        site, cluster = chain.cluster_of(self._request), dict(self._request.cluster)
        for name, value in changes.items():
            if holder := site.holder_of(self._stage, name):
                cluster["stages"] = {**cluster["stages"], holder: {**cluster["stages"][holder], name: value}}
            else:
                cluster[name] = value
        return cluster

    def _verdict(self, plan: Plan) -> Verdict:
        """Judge by Slurm's states and by what the workers recorded."""
        mine = [job for job in self._submission.jobs() if (job["stage"], job["kind"]) == (self._stage, "workers")]
        ids = [job_id for job in mine for job_id in job["ids"]]
        found = self._slurm.details(ids)
        states = [state for job_id in ids for state in of_job(found, job_id).values()]
        stage_dir = self._ledger.run_dir / plan.folder
        attempts = [attempt for found in failures(stage_dir).values() for attempt in found]
        recorded = any(attempt["submission"] == plan.submission for attempt in attempts)
        # torchrun and srun make 1 of the ranks' exit codes, so a 1 of theirs says little
        together = stage_class(self._stage).launch is not Launch.array
        begun = recorded or together or made_progress(self._ledger.run_dir, plan)
        verdict = judge(
            self._stage, states, begun=begun, mem_gib=chain.cluster_of(self._request).of(self._stage).mem_gib
        )
        if verdict.cause == "NODE_FAIL":
            return exclude_broken(verdict, states, self._request.cluster["exclude"], self._slurm)
        return verdict

    def stop(self, reason: str, *, cause: str, exit_code: int) -> int:
        """Record the reason, cancel the stages that can no longer run, and return the exit code."""
        log.error("%s", reason)
        self._write("stopped", cause=cause, reason=reason, exit_code=exit_code)
        self.clear()
        return exit_code

    def _write(self, outcome: str, **more: Any) -> None:
        value = {"outcome": outcome, "stage": self._stage, **more}
        publish_file(self._submission.outcome_path(self._stage), sealed_json(value), overwrite=True)


def judge(stage: str, states: list[State], *, begun: bool, mem_gib: float | None) -> Verdict:
    """Return what to do about units that are left, by cause.

    `begun`: whether the workers may have got as far as a unit. `mem_gib`: what their jobs asked for.
    """
    words = [state.state for state in states]
    if "OUT_OF_MEMORY" in words:
        if mem_gib == 0:
            return _stop("OUT_OF_MEMORY", f"{stage}: out of memory with all that a node has; set cluster.partition")
        asked = mem_gib or max((s.mem_gib or 0.0 for s in states), default=0.0)
        if not asked:
            return _stop("OUT_OF_MEMORY", f"{stage}: out of memory; set cluster.mem_gib")
        reason = f"{stage}: out of memory with {asked:g} GiB, again with {2 * asked:g}"
        return _again("OUT_OF_MEMORY", reason, mem_gib=2 * asked)
    if "NODE_FAIL" in words:
        return _again("NODE_FAIL", f"{stage}: a node failed")
    if "CANCELLED" in words:
        return _stop("CANCELLED", f"{stage}: its workers were cancelled; go on: rag-hpc retry")
    for word in ("TIMEOUT", "PREEMPTED", "DEADLINE", "BOOT_FAIL", "REVOKED"):
        if word in words:
            return _again(word, f"{stage}: {word.lower()}, again from where it stood")
    return _judge_exit_codes(stage, [state for state in states if state.state == "FAILED"], begun)


def _judge_exit_codes(stage: str, failed: list[State], begun: bool) -> Verdict:
    codes = {state.exit_code for state in failed}
    wrong = [code for code in codes if code in MISCONFIGURED]
    if wrong:
        reason = f"{stage}: a worker cannot run as configured (exit code {min(wrong)}); its log says why: rag-hpc why"
        return _stop("MISCONFIGURED", reason)
    if 3 in codes:
        return _again("STOPPED", f"{stage}: stopped by a signal or before the walltime, again from where it stood")
    killed = any(state.signal for state in failed)
    if failed and not begun and not killed:
        return _stop("FAILED", f"{stage}: workers failed before their first unit; their log says why: rag-hpc why")
    ends = ", ".join(sorted({f"exit {state.exit_code}:{state.signal} on {state.node}" for state in failed})[:3])
    reason = f"{stage}: workers ended with units left{f' ({ends})' if ends else ''}, again"
    return _again("FAILED" if failed else "UNFINISHED", reason)


def _again(cause: str, reason: str, **changes: Any) -> Verdict:
    return Verdict(again=True, cause=cause, reason=reason, changes=changes)


def _stop(cause: str, reason: str) -> Verdict:
    return Verdict(again=False, cause=cause, reason=reason)


def exclude_broken(verdict: Verdict, states: list[State], exclude: str | None, slurm: Slurm) -> Verdict:
    """Return the verdict with the failed nodes added to those that the next try avoids."""
    broken: list[str] = []
    for nodes in sorted({state.node for state in states if state.state == "NODE_FAIL" and state.node}):
        broken += [nodes] if not re.search(r"[\[,]", nodes) else slurm.broken_nodes(nodes)
    if not broken:
        return verdict
    reason = f"{verdict.reason}, again without {', '.join(broken)}"
    return _again(verdict.cause, reason, exclude=",".join([*([exclude] if exclude else []), *broken]))


def made_progress(run_dir: Path, plan: Plan) -> bool:
    """Return whether this submission committed a unit of the stage, or, where all ranks work on one, carried it on:
    a training longer than a walltime comes to its end by checkpoints.
    """
    units_dir = run_dir / plan.folder / commit.UNITS
    if stage_class(plan.stage).collective:
        begun = plan_path(run_dir, plan.submission, plan.stage).stat().st_mtime
        carried = [p for unit in plan.units for p in commit.carry_dir(run_dir / plan.folder, unit).glob("[!.]*")]
        if any(path.stat().st_mtime > begun for path in carried):
            return True
    return any(
        commit.read_record(units_dir / plan.units[index].name)["submission"] == plan.submission
        for index in sorted(commit.committed(units_dir), reverse=True)
    )


def let_go(plan_path: Path) -> None:
    """End the other tasks of a stage's arrays when every unit is committed, so that the gate need not wait for them.

    A worker calls this that found nothing left to do. Where a task was stopped or hangs, and another has done its unit,
    its draft is still there; where none is, the others are about to end, and nothing is asked. Drafts of units that are
    committed are of no use to anybody: whoever clears them away asks Slurm, so that not every worker does.
    """
    plan, run_dir = read_plan(plan_path), run_dir_of(plan_path)
    units_dir = run_dir / plan.folder / commit.UNITS
    left = commit.drafts(units_dir)
    if not left or not {unit.index for unit in plan.units} <= commit.committed(units_dir):
        return
    own = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    submission = open_run(run_dir).submission(plan.submission)
    mine = [job for job in submission.jobs() if (job["stage"], job["kind"]) == (plan.stage, "workers")]
    try:
        for name in left:
            drop_dir(units_dir / name)
        slurm = chain.slurm_of(submission.request)
        states = slurm.states([job_id for job in mine for job_id in job["ids"]])
        others = [
            key
            for key, state in states.items()
            if state.live and key != own and submission_of(state.name, run_dir) == plan.submission
        ]
        log.info("%s: every unit is committed, so these are ended: %s", plan.stage, ", ".join(others) or "none")
        slurm.cancel(others)
    except (RagHpcError, OSError) as error:  # some sites let no job cancel; the gate then waits for them
        log.warning("%s", error)


def pack_logs(submission: Path, stage: str) -> int:
    """Append the logs of a stage's jobs to its one file, drop them and submitit's files, and return how many.

    Thousands of tasks would otherwise leave thousands of small files.
    """
    jobs = submission / "jobs"
    own = re.compile(re.escape(stage) + r"\.\d+\.log")
    found = [path for path in jobs.glob("*.log") if own.fullmatch(path.name)] + list((jobs / stage).glob("*_log.out"))
    found.sort(key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    if found:
        with (submission / f"{stage}.log").open("ab") as packed:
            for path in found:
                packed.write(f"==> {path.name}\n".encode())
                with path.open("rb") as stream:
                    shutil.copyfileobj(stream, packed)
    for path in found:
        path.unlink()
    shutil.rmtree(jobs / stage, ignore_errors=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
