"""Reading scores off hidden states: which positions of a padded batch are read, and log-probabilities of targets.

Legend: B batch, T time, D model width, N positions read, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairtrial.models.scoring import Row, Sheet

_ELEMENTS = 1 << 22
"""Logits that are held at once."""
_CACHE_TOKENS = 640
"""Tokens in a pass on a CPU: more of them fall out of its caches and cost up to 1.6 times as much."""


def pass_tokens(budget: int, device: torch.device) -> int:
    """The most tokens to compute in one pass, within `budget`."""
    return min(budget, _CACHE_TOKENS) if device.type == "cpu" else budget


def batch_tokens(rows: Sequence[Row], depth: int) -> Tensor:
    """Tokens [B, T] of the rows behind `depth`, padded at the right with token 0."""
    width = max(len(row.ids) for row in rows)
    return torch.tensor([[*row.ids[depth:], *[0] * (width - len(row.ids))] for row in rows])


def places(rows: Sequence[Row], depth: int) -> Tensor:
    """Where the rows' readings are in the flattened batch [B * T]: [N], reading by reading."""
    width = max(len(row.ids) for row in rows) - depth
    flat = [
        place
        for line, row in enumerate(rows)
        for reading in row.readings
        for place in range(
            line * width + reading.first - depth, line * width + reading.first - depth + len(reading.targets)
        )
    ]
    return torch.tensor(flat)


def write_scores(
    hidden_ND: Tensor, head: Callable[[Tensor], Tensor], vocab: int, rows: Sequence[Row], sheet: Sheet
) -> None:
    """Score what is read off the rows; `head` turns [n, D] into logits [n, V], some positions at a time."""
    readings = [reading for row in rows for reading in row.readings]
    targets_N = torch.tensor([target for reading in readings for target in reading.targets], device=hidden_ND.device)
    logprobs: list[float] = []
    greedy: list[bool] = []
    step = max(1, _ELEMENTS // vocab)
    for hidden, targets in zip(hidden_ND.split(step), targets_N.split(step), strict=True):
        some, best = score_logits(head(hidden), targets)
        logprobs += some
        greedy += best
    sheet.write(readings, logprobs, greedy)


def score_logits(logits_NV: Tensor, targets_N: Tensor) -> tuple[list[float], list[bool]]:
    """Log-probabilities of the targets, in at least fp32, and whether each is the most likely (first of equals)."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    chosen_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    logprobs_N = chosen_N - torch.logsumexp(logits_NV, -1)
    return logprobs_N.tolist(), (logits_NV.argmax(-1) == targets_N).tolist()
