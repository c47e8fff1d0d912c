"""From token counts to money, by a price table that the user supplies: no prices are built in, they would go stale."""

from __future__ import annotations

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.limits import Usage

NO_PRICE = "no price is set: cost_usd is 0"
NO_USAGE = "the endpoint reported no usage: tokens and cost_usd are not known"


class Price(Config):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    """Input tokens read from the provider's cache; None: as `input`."""
    cache_write: float | None = Field(default=None, ge=0)
    """Input tokens written to the provider's cache; None: as `input`."""

    def cost_usd(self, *, fresh: int, cached: int, written: int, output: int) -> float:
        """Dollars for tokens of each sort (`fresh` input is neither cached nor written to the cache)."""
        cached_price = self.input if self.cached is None else self.cached
        written_price = self.input if self.cache_write is None else self.cache_write
        total = fresh * self.input + cached * cached_price + written * written_price + output * self.output
        return total / 1_000_000


def usage(
    price: Price | None, *, input_tokens: int, output_tokens: int, cached: int = 0, written: int = 0
) -> tuple[Usage, tuple[str, ...]]:
    """The usage of one call, and notes on what is not known.

    `input_tokens` includes the `cached` and the `written` ones.
    """
    cached = min(cached, input_tokens)
    written = min(written, input_tokens - cached)
    cost, notes = 0.0, (NO_PRICE,)
    if price is not None:
        fresh = input_tokens - cached - written
        cost, notes = price.cost_usd(fresh=fresh, cached=cached, written=written, output=output_tokens), ()
    spent = Usage(calls=1, input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached, cost_usd=cost)
    return spent, notes
