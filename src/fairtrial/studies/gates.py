"""Gates for CI: `fold >= control - 0.02` on a finished study, true or false, with the figures that decided it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.studies.report import wording
from fairtrial.studies.result import StudyResult

_NAME = r"[A-Za-z0-9][A-Za-z0-9._/@+-]*"
_NUMBER = r"\d+(?:\.\d+)?%?"
_GATE = re.compile(
    rf"\s*(?P<left>{_NAME})\s*(?P<op>>=|<=|>|<)\s*"
    rf"(?:(?P<number>{_NUMBER})|(?P<right>{_NAME})(?:\s+(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?)\s*"
)
_OPS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b - 1e-12,
    "<=": lambda a, b: a <= b + 1e-12,
    ">": lambda a, b: a > b + 1e-12,
    "<": lambda a, b: a < b - 1e-12,
}
GateOn = Literal["estimate", "bound"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate and whether it holds."""

    gate: str
    passed: bool
    reason: str


def check_syntax(gate: str, arms: Sequence[str]) -> re.Match[str]:
    """The parts of a gate. Raises UserError for a gate that cannot be read or names an unknown arm."""
    match = _GATE.fullmatch(gate)
    if match is None:
        raise UserError(f'gate {gate!r}: write ARM >= NUMBER or ARM >= ARM - NUMBER, such as "mine >= control - 0.02"')
    for name in (match["left"], match["right"]):
        if name is not None and name not in arms:
            raise UserError(f'gate {gate!r}: no arm "{name}"{did_you_mean(name, arms)}')
    return match


def check_gate(gate: str, result: StudyResult, on: GateOn = "estimate") -> GateResult:
    """Evaluate `ARM OP NUMBER` or `ARM OP ARM [+|- NUMBER]` (numbers like 0.02 or 2%).

    `on="estimate"` compares the estimates; `on="bound"` asks that the whole confidence interval satisfies the gate.
    Two arms are compared by their paired effect when one of them is the control. Raises UserError for a gate that
    cannot be read, and for one about arms without scores.
    """
    match = check_syntax(gate, [*(arm.name for arm in result.arms), "control"])
    left, op, right = match["left"], match["op"], match["right"]
    if right is None:
        estimate, interval = _level(result, _arm(left, result))
        limit = _number(match["number"])
        what = left
    else:
        estimate, interval = _contrast(result, _arm(left, result), _arm(right, result))
        limit = _number(match["offset"] or "0") * (-1 if match["sign"] == "-" else 1)
        what = f"{left} - {right}"
    if on == "bound":
        if interval is None:
            raise UserError(f"gate {gate!r}: there is no interval for {what}; use --gate-on estimate")
        value = interval[0] if op.startswith(">") else interval[1]
    else:
        value = estimate
    shown = f"{what} = {wording.signed(estimate)}" + (f" {wording.interval(interval, sign=True)}" if interval else "")
    return GateResult(gate, _OPS[op](value, limit), f"{shown}, wanted {op} {limit:+g} on the {on}")


def _number(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _arm(name: str, result: StudyResult) -> str:
    names = [arm.name for arm in result.arms]
    if name not in names and name == "control":
        return result.control
    return result.arm(name).name


def _level(result: StudyResult, arm: str) -> tuple[float, tuple[float, float] | None]:
    found = result.arm(arm)
    if found.mean is None:
        raise UserError(f'gate: arm "{arm}" has no scores')
    return found.mean, found.ci


def _contrast(result: StudyResult, left: str, right: str) -> tuple[float, tuple[float, float] | None]:
    """Left minus right: the paired effect where one is the control, else the mean difference over common tasks."""
    if left == right:
        return 0.0, (0.0, 0.0)
    for arm, other, sign in ((left, right, 1.0), (right, left, -1.0)):
        if other == result.control:
            effect = result.effect(arm)
            if effect.estimate is None:
                raise UserError(f'gate: "{left}" and "{right}" share no scored block')
            low, high = effect.ci or (float("nan"), float("nan"))
            interval = None if effect.ci is None else ((low, high) if sign > 0 else (-high, -low))
            return sign * effect.estimate, interval
    ours, theirs = result.arm(left).values, result.arm(right).values
    common = ours.keys() & theirs.keys()
    if not common:
        raise UserError(f'gate: "{left}" and "{right}" share no scored task')
    return sum(ours[task] - theirs[task] for task in common) / len(common), None
