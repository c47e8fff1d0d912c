"""One attempt of one trial, the same in every engine: deadline, limits, errors, and what every record gets."""

from __future__ import annotations

import asyncio
import importlib
import json
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

from fairtrial.core.clock import Clock, Timer
from fairtrial.core.errors import InfraError, LimitExceeded, StorageError, UserError, one_line
from fairtrial.core.limits import Meter, Usage
from fairtrial.core.record import Outcome, Record, Timings
from fairtrial.core.trajectory import ApiAction
from fairtrial.core.trial import BlobSink, Job, TrialContext, Work, Worker

NOT_RETRYABLE = "not_retryable"
"""Flag of an errored record that another attempt cannot help: neither this run nor a resume should try."""
IGNORED_CANCELLATION = "ignored_cancellation"
"""Flag of a trial whose worker went on after it was told to stop, and was given up or killed."""
_MESSAGE_CAP = 8000
_TICK = 1e-9
"""Seconds below which a limit is reached: a clock's floats may not be able to advance by less."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt left, and what the engine may do next."""

    record: Record
    retryable: bool = False
    retry_after_s: float | None = None
    abandoned: asyncio.Task[Any] | None = None
    """The worker's task where it ignored cancellation and still runs."""


def open_target(work: Work) -> Worker:
    """Build the worker that `work` names. Raises UserError where the name leads nowhere."""
    module, _, name = work.target.partition(":")
    if not module or not name:
        raise UserError(f'work target "{work.target}" is not of the form module:callable')
    try:
        factory: Any = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ModuleNotFoundError as error:
        raise UserError(f'work target "{work.target}": no module named {error.name!r} can be imported') from None
    except AttributeError:
        raise UserError(f'work target "{work.target}": module {module} has no {name!r}') from None
    return cast("Worker", factory(work.settings))


async def run_attempt(
    worker: Worker, job: Job, clock: Clock, blobs: BlobSink, grace_s: float, timer: Timer | None = None
) -> Attempt:
    """Run one attempt to its end, its deadline or its cancellation.

    The limit on seconds counts working time only. Where it is overrun the worker's task is cancelled; a worker that
    answers the cancellation with a record keeps its trajectory and artifacts in the failed record, and one that does
    not end within `grace_s` is given up. Raises StorageError (the disk refused a blob: nobody can go on) and
    CancelledError (the engine stops); everything else becomes a record.
    """
    timer, meter, started = timer or Timer(clock), Meter(job.limits), clock.now()
    answer = _answer(worker, job, TrialContext(clock, timer, meter, blobs))
    limit, task, overrun = job.limits.seconds, None, False
    if limit is None:
        result = await answer
    else:
        task = asyncio.create_task(answer)
        overrun, result = await _within(task, timer, limit, clock, grace_s)
        late = isinstance(result, Record) and result.outcome is Outcome.SCORED and timer.working_s > limit + _TICK
        overrun = overrun or late
    if isinstance(result, StorageError):
        raise result
    hung = task is not None and not task.done()
    attempt = _overrun(worker, job, result, hung) if overrun else _judge(worker, job, result)
    record = attempt.record
    wall, working, waiting = timer.read()
    timings = Timings(started=started, wall_s=wall, working_s=working, waiting_s=waiting)
    usage = meter.usage if record.usage == Usage() else record.usage
    return Attempt(
        record=record.model_copy(update={"timings": timings, "usage": usage}),
        retryable=attempt.retryable,
        retry_after_s=attempt.retry_after_s,
        abandoned=task if hung else None,
    )


async def _answer(worker: Worker, job: Job, context: TrialContext) -> object:
    """What the worker returned or raised; never raises but for the engine's own cancellation and Ctrl-C."""
    try:
        return await worker.run(job, context)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - becomes a record, with its traceback if it is a bug
        return error


async def _within(
    task: asyncio.Task[object], timer: Timer, limit: float, clock: Clock, grace_s: float
) -> tuple[bool, object]:
    """Wait for the worker's task; (whether its working time ran out, what it answered or None)."""
    changed = asyncio.Event()
    timer.on_change = changed.set
    try:
        while not task.done() and (timer.is_waiting or timer.working_s < limit - _TICK):
            changed.clear()
            pause = changed.wait() if timer.is_waiting else clock.sleep(limit - timer.working_s)
            await _first(task, pause, changed.wait())
        if task.done():
            return False, task.result()
        task.cancel()
        await _first(task, clock.sleep(grace_s))
        return True, task.result() if task.done() and not task.cancelled() else None
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=grace_s)
        raise
    finally:
        timer.on_change = None


async def _first(task: asyncio.Task[object], *others: Coroutine[Any, Any, Any]) -> None:
    """Return when the task or any of the others is done; the others are cancelled, the task is left alone."""
    waits = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait({task, *waits}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _judge(worker: Worker, job: Job, result: object) -> Attempt:
    """The attempt that a worker's answer amounts to."""
    if isinstance(result, Record):
        if problem := _unfit(result, job):
            return bug(job, problem)
        return Attempt(result, result.outcome is Outcome.ERRORED and NOT_RETRYABLE not in result.flags)
    if isinstance(result, LimitExceeded):
        return _failed(worker, job, result.limit, str(result))
    if isinstance(result, InfraError):
        return errored(job, result.cause, one_line(result), result.retryable, result.retry_after_s)
    if isinstance(result, UserError):
        return errored(job, "user_error", one_line(result), retryable=False)
    if isinstance(result, BaseException):
        return bug(job, "".join(traceback.format_exception(result)))
    return bug(job, f"the worker returned {type(result).__name__} and not a Record")


def _overrun(worker: Worker, job: Job, result: object, hung: bool) -> Attempt:
    """A failed record for a trial that ran out of working time; keeps what a late record or error tells."""
    message = f"the trial's limit on seconds ({job.limits.seconds}) is used up"
    if isinstance(result, BaseException):
        message += f"; while it was stopped: {one_line(result)}"
    attempt = _failed(worker, job, "seconds", message)
    record = attempt.record
    if hung:
        return Attempt(record.model_copy(update={"flags": (*record.flags, IGNORED_CANCELLATION)}))
    if isinstance(result, Record) and record.outcome is Outcome.FAILED and _unfit(result, job) is None:
        verdict = {name: getattr(record, name) for name in ("outcome", "scores", "cause", "message")}
        return Attempt(result.model_copy(update=verdict))
    return attempt


def _failed(worker: Worker, job: Job, limit: str, message: str) -> Attempt:
    try:
        scores = worker.failed_scores(job)
        return failed(job, limit, message, scores)
    except Exception:  # noqa: BLE001 - a bug in the rule is recorded as one
        return bug(job, traceback.format_exc())


def failed(job: Job, cause: str, message: str, scores: dict[str, float], flags: tuple[str, ...] = ()) -> Attempt:
    """An attempt that the agent's own limit ended. Raises ValueError where there are no scores."""
    return Attempt(
        Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.FAILED,
            scores=scores,
            cause=cause,
            message=_storable(message),
            flags=flags,
        )
    )


def errored(job: Job, cause: str, message: str, retryable: bool = True, retry_after_s: float | None = None) -> Attempt:
    """An attempt that the infrastructure ended."""
    record = Record(
        key=job.key,
        seed=job.seed,
        outcome=Outcome.ERRORED,
        cause=cause,
        message=_storable(message),
        flags=() if retryable else (NOT_RETRYABLE,),
    )
    return Attempt(record, retryable, retry_after_s)


def bug(job: Job, message: str) -> Attempt:
    """An attempt that a bug ended; not tried again."""
    return errored(job, "bug", message, retryable=False)


def _storable(message: str) -> str:
    """At most 8,000 characters, start and end kept, and nothing that UTF-8 cannot hold."""
    if len(message) > _MESSAGE_CAP:
        half = _MESSAGE_CAP // 2
        message = f"{message[:half]}\n[... {len(message) - 2 * half} characters left out ...]\n{message[-half:]}"
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def _unfit(record: Record, job: Job) -> str | None:
    """Why a worker's record cannot be taken, or None: another trial's, or not storable as JSON."""
    if record.key != job.key:
        return f"the worker returned a record of {record.key} for {job.key}"
    if record.seed != job.seed:
        return f"the worker returned a record with seed {record.seed} for a job with seed {job.seed}"
    try:
        record.model_dump_json()
        if record.details:
            json.dumps(record.details, allow_nan=False)
        if record.trajectory is not None:
            loose: list[Any] = [record.trajectory.details, record.trajectory.tools]
            loose += [call.sampling for call in record.trajectory.model_calls]
            loose += [item.kwargs for item in record.trajectory.content if isinstance(item, ApiAction)]
            json.dumps(loose, allow_nan=False)
    except (ValueError, TypeError) as error:
        return f"the worker returned a record that is not JSON: {one_line(error)}"
    return None
