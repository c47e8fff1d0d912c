"""Budget: how much of a study's cap may still be promised to trials, so that resumes and retries never overspend it.

Before a trial starts, the worst it can cost (its limit times the attempts it has left) is reserved; what it really cost
is booked when its record arrives. A trial without a limit of its own gets a fair share of what remains.
"""

from __future__ import annotations

from fairtrial.core.limits import Limits, Usage
from fairtrial.core.record import Record

_COUNTS = ("calls", "tokens")
_ALL = (*_COUNTS, "seconds", "cost_usd")


class Budget:
    """Spent and reserved amounts under a cap; amounts are calls, tokens, working seconds and USD."""

    def __init__(self, cap: Limits, spent: Usage, spent_s: float):
        self.caps = {name: float(value) for name in _ALL if (value := getattr(cap, name)) is not None}
        self._spent = dict.fromkeys(_ALL, 0.0)
        self._reserved: dict[tuple[str, str, int], dict[str, float]] = {}
        self._book(spent, spent_s)

    def spent(self, name: str) -> float:
        """What was spent of one amount, over all attempts and resumes."""
        return self._spent[name]

    def _book(self, usage: Usage, seconds: float) -> None:
        for name, value in zip(_ALL, (usage.calls, usage.tokens, seconds, usage.cost_usd), strict=True):
            self._spent[name] += value

    def remaining(self) -> dict[str, float]:
        """Cap minus spent minus reserved, for each amount that has a cap."""
        held = {name: sum(item.get(name, 0.0) for item in self._reserved.values()) for name in self.caps}
        return {name: cap - self._spent[name] - held[name] for name, cap in self.caps.items()}

    def exhausted(self) -> bool:
        """Whether some amount is used up, so that no further trial may start."""
        remaining = self.remaining()
        return any(value < (1 if name in _COUNTS else 1e-9) for name, value in remaining.items())

    def admit(self, trial: tuple[str, str, int], limits: Limits, attempts: int, shares: int) -> Limits | None:
        """Reserve for one trial and return its limits, or None while too little is free.

        `attempts` is how often it may run; `shares` among how many trials the rest is divided where the trial has
        no limit of its own.
        """
        if not self.caps:
            return limits
        granted: dict[str, float] = {}
        for name, free in self.remaining().items():
            own = getattr(limits, name)
            amount = own if own is not None else free / (shares * attempts)
            if name in _COUNTS:
                amount = int(amount)
            if amount * attempts > free + 1e-12 or amount < (1 if name in _COUNTS else 1e-9):
                return None
            granted[name] = amount
        self._reserved[trial] = {name: amount * attempts for name, amount in granted.items()}
        return Limits.model_validate({**limits.model_dump(), **granted})

    def admit_last(self, trial: tuple[str, str, int], limits: Limits) -> Limits | None:
        """Like `admit` for one attempt, with whatever is left; None when nothing is."""
        if self.exhausted():
            return None
        free = self.remaining()
        capped: dict[str, float] = {}
        for name, value in free.items():
            own = getattr(limits, name)
            amount = value if own is None else min(value, own)
            capped[name] = int(amount) if name in _COUNTS else amount
        self._reserved[trial] = capped
        return Limits.model_validate({**limits.model_dump(), **capped})

    def book(self, record: Record) -> None:
        """Book what an attempt cost; what it had reserved shrinks by as much."""
        seconds = record.timings.working_s if record.timings else 0.0
        self._book(record.usage, seconds)
        if (held := self._reserved.get(record.key.trial)) is not None:
            cost = (record.usage.calls, record.usage.tokens, seconds, record.usage.cost_usd)
            for name, value in zip(_ALL, cost, strict=True):
                if name in held:
                    held[name] = max(0.0, held[name] - value)

    def release_all(self) -> None:
        """Forget all reservations (nothing is in flight)."""
        self._reserved.clear()
