"""The reward contract of Harbor tasks: reward.json (flat, finite numbers) before reward.txt (one finite float)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtrial.core.errors import InfraError
from fairtrial.tasks.scratch import read_inside

_LIMIT = 64 * 1024
_MAX_KEYS = 100
_HUGE = 1e9


@dataclass(frozen=True, slots=True)
class Reward:
    """What a verifier said."""

    value: float
    scores: dict[str, float]
    """Every number of reward.json; `reward` alone for reward.txt."""
    source: str
    flags: tuple[str, ...] = ()


def read_reward(files: Path, tests: Path) -> Reward:
    """The verdict in the box folder `files` after its verifier (whose scripts are in `tests`) has ended.

    A reward.json that no file of `tests` mentions was written by somebody else: ignored, flagged. Raises
    InfraError(cause="verifier") when there is no verdict or it breaks the contract. Where reward.json has no key
    "reward", the reward is the mean of its numbers (flagged when there are several).
    """
    flags: tuple[str, ...] = ()
    raw = _read(files, "reward.json")
    if raw is not None and not mentions(tests, b"reward.json"):
        raw, flags = None, ("unexpected_reward_json",)
    if raw is not None:
        scores = _parse_json(raw)
        if "reward" not in scores:
            flags = ("reward_is_mean_of_keys",) if len(scores) > 1 else ()
            scores["reward"] = sum(scores.values()) / len(scores)
        return Reward(scores["reward"], scores, "reward.json", flags)
    raw = _read(files, "reward.txt")
    if raw is None:
        raise _broken("the verifier left no reward")
    return Reward(value := _parse_text(raw), {"reward": value}, "reward.txt", flags)


def mentions(tests: Path, word: bytes) -> bool:
    """Whether any file of a verifier contains `word`."""
    return any(word in file.read_bytes() for file in sorted(tests.rglob("*")) if file.is_file())


def _broken(reason: str) -> InfraError:
    return InfraError(reason, cause="verifier", retryable=False)


def _read(files: Path, name: str) -> bytes | None:
    try:
        return read_inside(files, f"/logs/verifier/{name}", _LIMIT)
    except ValueError as error:
        raise _broken(f"the verifier's {name} is unusable: {error}") from None


def _parse_text(raw: bytes) -> float:
    text = raw.decode("utf-8", "replace").strip()
    if not text:
        raise _broken("reward.txt is empty")
    try:
        value = float(text)
    except ValueError:
        raise _broken(f"reward.txt holds {text[:60]!r}, not a number") from None
    return _checked(value, "reward.txt")


def _parse_json(raw: bytes) -> dict[str, float]:
    try:
        data: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise _broken("reward.json is empty" if not raw.strip() else "reward.json is not valid JSON") from None
    if not isinstance(data, dict) or not data or len(data) > _MAX_KEYS:
        raise _broken("reward.json is not a flat object of numbers")
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _broken(f"reward.json: {key[:60]!r} is not a number")
    return {key: _checked(value, f"reward.json: {key[:60]!r}") for key, value in data.items()}


def _checked(value: float, where: str) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise _broken(f"{where} is not finite")
    if abs(value) > _HUGE:
        raise _broken(f"{where} is out of all proportion")
    return float(value)
