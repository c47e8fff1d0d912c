"""Limits of one trial and the budget of a whole study: calls, tokens, working seconds, money."""

from __future__ import annotations

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.errors import LimitExceeded


class Usage(Config):
    """What was spent. Tokens are the model's own; `input_tokens` includes the cached ones."""

    calls: int = Field(default=0, ge=0)
    """Model calls."""
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0)

    @property
    def tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )


class Limits(Config):
    """Caps; None means no cap. As `[limits]` they hold for each trial, as `[budget]` for the study over all resumes."""

    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)
    """Working seconds: waiting for a provider does not count."""
    cost_usd: float | None = Field(default=None, ge=0)

    def exceeded_by(self, usage: Usage, seconds: float = 0.0) -> str | None:
        """The name of the first cap that is overrun, or None."""
        spent = {"calls": usage.calls, "tokens": usage.tokens, "seconds": seconds, "cost_usd": usage.cost_usd}
        for name, value in spent.items():
            cap = getattr(self, name)
            if cap is not None and value > cap:
                return name
        return None


class Meter:
    """Adds up one trial's usage and raises LimitExceeded as soon as a cap is overrun."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.usage = limits, Usage()

    def charge(self, usage: Usage) -> None:
        """Add `usage`; raise LimitExceeded where a cap is now overrun (what was spent stays counted)."""
        self.usage = self.usage + usage
        if name := self.limits.exceeded_by(self.usage):
            raise LimitExceeded(name, f"the trial's limit on {name} ({getattr(self.limits, name)}) is used up")
