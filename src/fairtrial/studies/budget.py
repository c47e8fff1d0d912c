"""Budget: how much of a study's cap may still be promised to trials, so that resumes and retries never overspend it.

Before a trial starts, the worst it can cost (its limit times the attempts it has left) is reserved; what it really cost
is booked when its record arrives. A study with a budget therefore states the same limit for each trial: no trial is
cut short because others were expensive. (A call's price is known after the call: a trial may overrun by its last.)
"""

from __future__ import annotations

from fairtrial.core.limits import Limits, Usage
from fairtrial.core.record import Record

_ALL: tuple[str, ...] = ("calls", "tokens", "seconds", "cost_usd")


class Budget:
    """Spent and reserved amounts under a cap; amounts are calls, tokens, working seconds and USD."""

    def __init__(self, cap: Limits, spent: Usage, spent_s: float) -> None:
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

    def admit(self, trial: tuple[str, str, int], limits: Limits, attempts: int) -> bool:
        """Reserve what a trial can cost at most in `attempts` attempts; False while too little is free."""
        worst = {name: float(getattr(limits, name)) * attempts for name in self.caps}
        free = self.remaining()
        if any(amount > free[name] + 1e-9 for name, amount in worst.items()):
            return False
        self._reserved[trial] = worst
        return True

    def book(self, record: Record) -> None:
        """Book what an attempt cost; what it had reserved shrinks by as much."""
        seconds = record.timings.working_s if record.timings else 0.0
        self._book(record.usage, seconds)
        if (held := self._reserved.get(record.key.trial)) is not None:
            cost = (record.usage.calls, record.usage.tokens, seconds, record.usage.cost_usd)
            for name, value in zip(_ALL, cost, strict=True):
                if name in held:
                    held[name] = max(0.0, held[name] - value)

    def release(self, trial: tuple[str, str, int]) -> None:
        """Forget what a finished trial had reserved."""
        self._reserved.pop(trial, None)

    def release_all(self) -> None:
        """Forget all reservations (nothing is in flight)."""
        self._reserved.clear()
