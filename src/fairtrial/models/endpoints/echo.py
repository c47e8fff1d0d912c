"""Scores from a completions reply that echoes its prompt with log-probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fairtrial.models.model import Pair, Score, UnsupportedError

TIE = 1e-6  # a log-probability this near to the highest one is the highest one, rounded


@dataclass(frozen=True, slots=True)
class Echoed:
    """The `logprobs` of a completions choice."""

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    offsets: tuple[int, ...] | None
    highest: tuple[float | None, ...] | None
    """Of each token's alternatives."""


def read_echo(value: Any) -> Echoed | None:
    """From JSON; None where it is not in that shape."""
    if not isinstance(value, dict):
        return None
    tokens, logprobs = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(logprobs, list) or len(tokens) != len(logprobs):
        return None
    offsets, top = value.get("text_offset"), value.get("top_logprobs")
    has_offsets = isinstance(offsets, list) and len(offsets) == len(tokens)
    has_offsets = has_offsets and all(isinstance(offset, int) for offset in offsets or ())
    has_top = isinstance(top, list) and len(top) == len(tokens)
    return Echoed(
        tuple(str(token) for token in tokens),
        tuple(_number(item) for item in logprobs),
        tuple(offsets or ()) if has_offsets else None,
        tuple(_highest(item) for item in top or ()) if has_top else None,
    )


def echo_score(echoed: Echoed | None, pair: Pair, model: str) -> Score:
    """The score of the continuation. Raises UnsupportedError where the echo does not say enough."""
    text = pair.context + pair.continuation
    if echoed is None:
        raise UnsupportedError(f'the server of "{model}" echoes no log-probabilities: set score = false')
    starts = _starts(echoed, text)
    if starts is None:
        raise UnsupportedError(f'the server of "{model}" does not say where the tokens of its echo lie in the text')
    begin, end = len(pair.context), len(text)
    picked = [
        index for index, start in enumerate(starts) if start < end and start + max(1, len(echoed.tokens[index])) > begin
    ]
    logprobs = [echoed.logprobs[index] for index in picked]
    if not logprobs or None in logprobs:
        raise UnsupportedError(
            f'the server of "{model}" gives no log-probability for the first token of a text: give each pair a context'
        )
    values = tuple(value for value in logprobs if value is not None)
    if echoed.highest is None:
        raise UnsupportedError(f'the server of "{model}" gives no alternatives, so nothing says which token is greedy')
    greedy = all(
        highest is not None and value >= highest - TIE
        for value, highest in zip(values, (echoed.highest[index] for index in picked), strict=True)
    )
    return Score(
        logprob=math.fsum(values),
        token_logprobs=values,
        characters=len(pair.continuation),
        bytes=len(pair.continuation.encode()),
        greedy=greedy,
    )


def _starts(echoed: Echoed, text: str) -> list[int] | None:
    """Where each token begins in `text`: from the tokens themselves where they spell it, else as the server says.

    Tokens before the text (a begin mark) get negative places.
    """
    spelled = "".join(echoed.tokens)
    at = spelled.find(text)
    if at < 0:
        return None if echoed.offsets is None else list(echoed.offsets)
    starts, place = [], -at
    for token in echoed.tokens:
        starts.append(place)
        place += len(token)
    return starts


def _highest(item: Any) -> float | None:
    values = [_number(value) for value in item.values()] if isinstance(item, dict) else []
    finite = [value for value in values if value is not None]
    return max(finite) if finite else None


def _number(value: Any) -> float | None:
    found = as_float(value)
    return found if math.isfinite(found) else None


def as_float(value: Any) -> float:
    """A JSON number as a float; NaN for what is none (an integer beyond a float's range included)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
