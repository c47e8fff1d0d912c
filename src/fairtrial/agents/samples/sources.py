"""Where runs come from: a run directory of trials, a collection, or a file of trajectories in any format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.log import Log
from fairtrial.agents.recording import load_log
from fairtrial.agents.samples.foreign import run_of_trajectory
from fairtrial.agents.samples.runs import ReplayError, Run, replayed, run_of_log
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.record import Outcome, Record
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats.exporting import rows_of
from fairtrial.formats.format import RowError, check
from fairtrial.store import RunDir

LOGS = ("log.jsonl", "agent_log.jsonl")
"""Names under which records keep the whole log."""
Runs = Callable[[], Iterator[Run]]


def runs_in(path: Path, *, arm: str | None = None, policy: ContextPolicy | None = None) -> Iterator[Run]:
    """The runs of a source, one at a time.

    Args:
        path: A run directory (each trial's latest attempt), an imported collection, or a file of trajectories.
        arm: Of a run directory: only this arm.
        policy: Show the runs under this policy instead of the one that they were played under.

    Raises:
        UserError: There is nothing to read, an arm is named that there is not, or a policy for runs without a log.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a run directory or a file of trajectories")
    if not RunDir.exists(path):
        if arm is not None:
            raise UserError(f"{path} is no run directory and has no arms: leave --arm out")
        if policy is not None:
            raise UserError(f"{path} holds no logs to show under a policy: leave it out, or give a run directory")
        yield from (_of_row(row) for row in rows_of(path))
        return
    with RunDir.open(path) as run:
        if arm is not None and arm not in (known := [each.arm for each in run.arms()]):
            raise UserError(f'{path} has no arm "{arm}"{did_you_mean(arm, known)}')
        for record in run.records(latest=True, arm=arm):
            yield _of_record(record, run, policy)


def _of_row(row: dict[str, object]) -> Run:
    try:
        return run_of_trajectory(check(row))
    except RowError as error:
        return Run(str(row.get("id")), (), "", (), problem=f"no trajectory: {error}")


def _of_record(record: Record, run: RunDir, policy: ContextPolicy | None) -> Run:
    id = f"{record.key.arm}/{record.key.task}#{record.key.repeat}"
    if record.outcome in (Outcome.ERRORED, Outcome.SKIPPED):
        return Run(id, (), "", (), problem=f"the trial {record.outcome.value}")
    name = next((name for name in LOGS if name in record.artifacts), None)
    if name is None:
        if policy is not None or record.trajectory is None:
            return Run(
                id, (), "", (), problem="the record holds no log" if policy else "the record holds no trajectory"
            )
        trajectory = record.trajectory.model_copy(update={"id": id})
        return run_of_trajectory(trajectory, scores=record.scores)
    log = load_log(run.blobs.get(record.artifacts[name]))
    if policy is not None:
        try:
            return run_of_log(replayed(log, policy), id, scores=record.scores)
        except ReplayError as error:
            return Run(id, (), "", (), problem=f"cannot be shown under another policy: {error}")
    return run_of_log(log, id, prompts=_prompts(log, record.trajectory), scores=record.scores)


def _prompts(log: Log, trajectory: Trajectory | None) -> list[tuple[int, ...] | None]:
    """The prompts' ids by model call, as the record's table of calls has them.

    Where the table's sampled ids are not the log's, the two do not belong together and no ids are used.
    """
    calls = list(log.calls())
    if trajectory is None or len(trajectory.model_calls) != len(calls):
        return []
    return [
        trajectory.prompt_ids(index)
        if made.prompt is not None and made.completion_ids == call.reply.completion_ids
        else None
        for index, (made, call) in enumerate(zip(trajectory.model_calls, calls, strict=True))
    ]
