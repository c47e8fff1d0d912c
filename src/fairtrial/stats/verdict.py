"""What may be said of an effect, in one word and in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fairtrial.core.errors import UserError
from fairtrial.stats.equivalence import Equivalence, tost
from fairtrial.stats.intervals import check_level
from fairtrial.stats.paired import Effect
from fairtrial.stats.power import tasks_needed

Word = Literal["better", "worse", "equivalent", "not decided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one arm against the control."""

    word: Word
    sentence: str
    p: float
    """The p that was used: adjusted for several arms where one was given."""
    alpha: float
    tasks_to_decide: int | None
    """Not decided: tasks (like these, with as many repeats) that would find a difference of the size observed, or of
    the margin where one is given, in 80 % of studies. None where it is decided, or where the spread is unknown."""
    equivalence: Equivalence | None


def decide(
    effect: Effect,
    *,
    alpha: float = 0.05,
    margin: float | None = None,
    p_adjusted: float | None = None,
    higher_is_better: bool = True,
    arm: str = "the arm",
    control: str = "the control",
) -> Verdict:
    """Decide: better or worse needs both p <= alpha and an interval that excludes zero.

    Equivalent needs a margin and two one-sided tests; it goes before better and worse, because a difference that is
    shown to be smaller than what matters does not matter.

    Args:
        effect: Of the arm against the control.
        alpha: Level, over all arms where `p_adjusted` is given.
        margin: The smallest difference that matters, in units of the score.
        p_adjusted: p after Holm's correction, where several arms are compared.
        higher_is_better: Whether a higher score is better.
        arm: What to call the arm.
        control: What to call the control.
    """
    check_level(alpha, "alpha")
    p = effect.p if p_adjusted is None else p_adjusted
    if not 0 <= p <= 1:
        raise UserError(f"an adjusted p must lie between 0 and 1, not {p}")
    equivalence = None if margin is None else tost(effect, margin, alpha=alpha)
    different = p <= alpha and effect.interval is not None and effect.interval.excludes(0)
    word: Word = "not decided"
    if equivalence is not None and equivalence.equivalent:
        word = "equivalent"
    elif different:
        word = "better" if (effect.estimate > 0) == higher_is_better else "worse"
    needed = _tasks(effect, alpha, p, margin) if word == "not decided" else None
    sentence = _sentence(effect, word, p, margin, needed, different, (arm, control))
    return Verdict(word, sentence, p, alpha, needed, equivalence)


def _tasks(effect: Effect, alpha: float, p: float, margin: float | None) -> int | None:
    delta, sd = (abs(effect.estimate) if margin is None else margin), effect.task_sd
    if sd is None or delta <= 1e-12:
        return None
    level = alpha * min(1.0, effect.p / p) if p > 0 else alpha  # what Holm leaves of alpha for this arm
    return max(effect.n_tasks + 1, tasks_needed(delta, sd, alpha=level))


def _sentence(
    effect: Effect,
    word: Word,
    p: float,
    margin: float | None,
    needed: int | None,
    different: bool,
    names: tuple[str, str],
) -> str:
    arm, control = names
    scale, unit = (100.0, " points") if effect.bounded else (1.0, "")
    size = f"{effect.estimate * scale:+z.{_digits(scale)}}{unit}"
    units = f"{effect.n_tasks} task{'s' * (effect.n_tasks != 1)}"
    if effect.families is not None:
        units += f" in {effect.n_clusters} famil{'ies' if effect.n_clusters != 1 else 'y'}"
    facts = f"{_interval(effect, scale)}, {show_p(p)}, {units}"
    if word in ("better", "worse"):
        text = f"{arm} is {word} than {control}: {size} ({facts})."
    elif word == "equivalent":
        extra = "; a difference is there, but smaller than what matters" if different else ""
        within = f"{(margin or 0) * scale:.{_digits(scale)}}{unit}"
        text = f"{arm} and {control} are equivalent within {within}: {size} ({facts}){extra}."
    else:
        hint = _what_would(effect, needed, margin, scale, unit)
        text = f"Not decided: {arm} against {control} is {size} ({facts}); {hint}."
    return text + (f" Only {effect.n_clusters} independent units: a rough guide." if effect.small else "")


def _what_would(effect: Effect, needed: int | None, margin: float | None, scale: float, unit: str) -> str:
    if needed is None:
        if effect.se is None:
            return "a single task or family gives no interval: run more"
        return "there is no difference to plan for: run more tasks, or name a margin to test for equivalence"
    of = "this size" if margin is None else f"{margin * scale:.{_digits(scale)}}{unit}"
    many = "more than a million" if needed > 1_000_000 else f"about {needed:,}"
    detectable = effect.mde()
    if not detectable:
        return f"{many} tasks that agree like these would decide it"
    return (
        f"{many} tasks would decide a difference of {of} "
        f"(these can find {detectable * scale:.{_digits(scale)}}{unit} in 80 % of studies)"
    )


def _interval(effect: Effect, scale: float) -> str:
    if effect.interval is None:
        return "no interval"
    low, high = effect.interval.low * scale, effect.interval.high * scale
    digits = _digits(scale)
    return f"{effect.confidence * 100:g} % interval {low:+z.{digits}} to {high:+z.{digits}}"


def _digits(scale: float) -> str:
    return "1f" if scale > 1 else "3g"


def show_p(p: float) -> str:
    """A p for people: never zero, and no digits that mean nothing."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
