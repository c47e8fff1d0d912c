"""Which tokens of a run are learned and which are context, for people to look at: a line for each span. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fairtrial.agents.samples.sample import Sample, Weights
from fairtrial.agents.samples.sources import runs_in
from fairtrial.agents.samples.stretches import samples_of
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.training.sft_rows import Row, rows_of
from fairtrial.training.sft_speakers import Speaker, open_speaker


def run_tokens(
    path: Path, name: str, model: str | dict[str, Any], base: Path, *, weights: Weights | None = None, width: int = 12
) -> list[str]:
    """The samples of one run, token by token, as a model would learn them.

    Args:
        path: A run directory, a collection, or a file of trajectories.
        name: Of the run: ARM/TASK#REPEAT, or a trajectory's id.
        model: Whose tokens: native:FOLDER or hf:FOLDER.
        base: The folder that the model's path starts from.
        weights: By kind; None: all 1.
        width: See `token_view`.

    Raises:
        UserError: There is no such run, or nothing of it can be learned.
    """
    speaker = open_speaker(model, base)
    known: list[str] = []
    for run in runs_in(path):
        known.append(run.id)
        if run.id != name:
            continue
        dropped: Counter[str] = Counter()
        samples = [] if run.problem else list(samples_of(run, weights or Weights(), dropped))
        if not samples:
            reasons = run.problem or ", ".join(f"{count} x {why}" for why, count in dropped.items()) or "no turns"
            raise UserError(f"{name}: nothing of it can be learned ({reasons})")
        return [line for sample in samples for line in token_view(sample, speaker, width=width)]
    raise UserError(f"{path} holds no run {name}{did_you_mean(name, known) if len(known) < 500 else ''}")


def token_view(sample: Sample, speaker: Speaker, *, width: int = 0) -> list[str]:
    """What is learned of a sample and what is context, for people: a line for each span, its tokens between bars.

    Args:
        sample: The sample.
        speaker: Of the model that is to learn it.
        width: Tokens of context that are shown at both ends of each stretch of it; 0: all.

    Raises:
        UserError: Nothing of the sample can be learned.
    """
    refused: Counter[str] = Counter()
    rows = rows_of(sample, speaker, refused)
    if not rows:
        raise UserError(f"{sample.id}: nothing of it can be learned: {', '.join(refused) or 'no turns'}")
    lines: list[str] = []
    for number, row in enumerate(rows):
        learned = int((row.weights > 0).sum())
        part = f" (row {number + 1} of {len(rows)})" if len(rows) > 1 else ""
        lines.append(f"{sample.id}{part}: {len(row)} tokens, {learned} learned, as {speaker.name} reads it")
        for (name, weight), group in groupby(enumerate(_labels(row)), key=lambda pair: pair[1]):
            places = [place for place, _ in group]
            shown = _tokens(row.ids[places[0] : places[-1] + 1].tolist(), speaker, 0 if weight else width)
            lines.append(f"{places[0]:>6}-{places[-1]:<6} {name:<8} {weight:<4g} {shown}")
    return lines


def _labels(row: Row) -> list[tuple[str, float]]:
    """Name and weight of each id."""
    out: list[tuple[str, float]] = [("context", 0.0)] * len(row)
    for span in row.spans:
        out[span.start : span.end] = [(span.kind or "turn", span.weight)] * (span.end - span.start)
    return out


def _tokens(ids: Sequence[int], speaker: Speaker, width: int) -> str:
    if width and len(ids) > 2 * width:
        left = len(ids) - 2 * width
        return f"{_tokens(ids[:width], speaker, 0)} ... {left} more ... {_tokens(ids[-width:], speaker, 0)}"
    return "|".join(speaker.spelled(index).replace("\n", "\\n") for index in ids)
