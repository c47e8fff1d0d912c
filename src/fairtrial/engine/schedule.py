"""Which job may start next: the given order, bent only by per-arm limits and by retries that wait for their time.

Pure bookkeeping on an injected "now": nothing here sleeps or runs anything.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fairtrial.core.ids import canonical_json, seed
from fairtrial.core.trial import ArmOptions, EngineOptions, Job

_TICK = 1e-9
"""Times closer than this are equal: adding up floats must not make a job wait for another round."""
_LOOKAHEAD = 8
"""Jobs set aside for throttled arms, for each trial in flight."""


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A job and its place in the given order."""

    place: int
    job: Job = field(compare=False)
    again: bool = field(default=False, compare=False)
    """Whether this run has tried it before."""


@dataclass(slots=True)
class _Arm:
    """What is known of one arm while the run lasts."""

    options: ArmOptions
    running: int = 0
    backing_off: int = 0
    errors: int = 0
    """Attempts in a row that the infrastructure ended."""
    next_start: float = 0.0
    aside: list[Ticket] = field(default_factory=list[Ticket])
    """Heap by place: jobs that were pulled but may not start yet, and retries that are due."""


class Schedule:
    """Hands out jobs one by one.

    Order: the smallest place that may start. A job whose arm is at its concurrency or rate is set aside and the next
    ones are looked at, at most `8 * in_flight` ahead, so that neither memory nor a caller's late decisions suffer.
    After `2 * in_flight` infrastructure errors in a row an arm starts nothing new before its retries have gone: an
    outage of its provider does not burn through all of its jobs.
    """

    def __init__(self, jobs: Iterable[Job], options: EngineOptions) -> None:
        self._jobs, self._options = iter(jobs), options
        self._place, self._exhausted = 0, False
        self._arms: dict[str, _Arm] = {}
        self._later: list[tuple[float, Ticket]] = []
        self._aside = 0

    def next(self, now: float) -> Ticket | None:
        """The job to start at `now` (it counts as running), or None where none may start."""
        self._wake(now)
        heads = [arm for arm in self._arms.values() if arm.aside and self._free(arm, now, arm.aside[0].again)]
        if heads:
            self._aside -= 1
            return self._start(heapq.heappop(min(heads, key=lambda arm: arm.aside[0]).aside), now)
        while not self._exhausted and self._aside < _LOOKAHEAD * self._options.in_flight:
            job = next(self._jobs, None)
            if job is None:
                self._exhausted = True
                break
            ticket, self._place = Ticket(self._place, job), self._place + 1
            if self._free(self._arm(job), now, again=False):
                return self._start(ticket, now)
            self._set_aside(ticket)
        return None

    def finished(self, ticket: Ticket, erred: bool) -> None:
        """The job no longer runs; `erred` where the infrastructure ended it."""
        arm = self._arm(ticket.job)
        arm.running -= 1
        arm.errors = arm.errors + 1 if erred else 0

    def retry(self, ticket: Ticket, now: float, retry_after_s: float | None) -> bool:
        """Queue another attempt after its back-off; False where the attempts are used up."""
        key = ticket.job.key
        if key.attempt >= self._options.attempts:
            return False
        wait = max(backoff_s(ticket.job, self._options), retry_after_s or 0.0)
        again = replace(ticket.job, key=key.model_copy(update={"attempt": key.attempt + 1}))
        heapq.heappush(self._later, (now + wait, Ticket(ticket.place, again, again=True)))
        self._arm(again).backing_off += 1
        return True

    def next_change(self, now: float) -> float | None:
        """Seconds until a back-off or a rate lets something start; None where only a finishing trial can."""
        times = [self._later[0][0]] if self._later else []
        times += [arm.next_start for arm in self._arms.values() if arm.aside and arm.next_start > now + _TICK]
        return max(0.0, min(times) - now) if times else None

    @property
    def empty(self) -> bool:
        """Whether nothing is left to start."""
        return self._exhausted and not self._aside and not self._later

    def _arm(self, job: Job) -> _Arm:
        name = job.key.arm
        if name not in self._arms:
            self._arms[name] = _Arm(self._options.arms.get(name) or ArmOptions())
        return self._arms[name]

    def _free(self, arm: _Arm, now: float, again: bool) -> bool:
        in_flight = self._options.in_flight
        room = arm.running < (arm.options.concurrency or in_flight) and now >= arm.next_start - _TICK
        outage = arm.backing_off > 0 and arm.errors >= 2 * in_flight
        return room and (again or not (outage or arm.backing_off >= _LOOKAHEAD * in_flight))

    def _start(self, ticket: Ticket, now: float) -> Ticket:
        arm = self._arm(ticket.job)
        arm.running += 1
        if arm.options.per_minute is not None:
            arm.next_start = now + 60.0 / arm.options.per_minute
        return ticket

    def _set_aside(self, ticket: Ticket) -> None:
        heapq.heappush(self._arm(ticket.job).aside, ticket)
        self._aside += 1

    def _wake(self, now: float) -> None:
        """Move the retries whose time has come to their arms."""
        while self._later and self._later[0][0] <= now + _TICK:
            _, ticket = heapq.heappop(self._later)
            self._arm(ticket.job).backing_off -= 1
            self._set_aside(ticket)


def backoff_s(job: Job, options: EngineOptions) -> float:
    """Seconds to wait after this attempt of a job: full jitter below a doubling cap.

    Drawn from the block's "retry" stream, the arm and the attempt, so that the same study waits equally everywhere.
    """
    key = job.key
    block = seed(job.block_seed, key.task, key.repeat, "retry")
    draw = random.Random(canonical_json([block, key.arm, key.attempt])).random()  # noqa: S311 - jitter, not secrecy
    return draw * min(options.backoff_max_s, options.backoff_s * 2.0 ** min(key.attempt - 1, 60))
