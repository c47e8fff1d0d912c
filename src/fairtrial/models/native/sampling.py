"""How the next token is drawn: one generator for each request, so that a draw depends on its own request alone.

A token is the first one whose cumulated probability exceeds a uniform number u; a request's k-th token uses its
generator's k-th number, whatever else is in the batch. Log-probabilities are those of the distribution drawn from:
after grammar, temperature, top-k and top-p. At temperature 0 nothing is drawn, and they are those of temperature 1
after the grammar: the point distribution's own, 0 everywhere, would say nothing.
Legend: N requests, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairtrial.models.model import Sampling
from fairtrial.nn.ops import decode_c


@dataclass(slots=True)
class Draw:
    """One request's way of drawing."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a repeatable draw, no secret

    @staticmethod
    def of(sampling: Sampling, seed: int) -> Draw:
        """As the request asks."""
        return Draw(sampling.temperature, sampling.top_p, sampling.top_k, seed)

    @property
    def plain(self) -> bool:
        """Whether the whole distribution is drawn from."""
        return self.top_p >= 1 and self.top_k == 0

    def uniform(self) -> float:
        """The next number in [0, 1 - 2^-52]: times any sum it stays below it."""
        return min(self._random.random(), 1 - 2.0**-52)


def draw(logits_NV: Tensor, draws: Sequence[Draw], allowed: Sequence[Tensor | None]) -> tuple[list[int], list[float]]:
    """One token for each row and its log-probability in nats.

    Args:
        logits_NV: fp32; -inf for tokens that do not exist. May be changed.
        draws: one for each row.
        allowed: for each row bool [V], what its grammar allows, or None.
    """
    for row, mask_V in enumerate(allowed):
        if mask_V is not None:
            logits_NV[row].masked_fill_(~mask_V, -torch.inf)
    tokens, logprobs = [0] * len(draws), [0.0] * len(draws)
    greedy = [row for row, one in enumerate(draws) if one.temperature == 0]
    if greedy:
        some = logits_NV if len(greedy) == len(draws) else logits_NV[greedy]
        for row, token, logp in zip(greedy, *_likeliest(some), strict=True):
            tokens[row], logprobs[row] = token, logp
    random_rows = [row for row, one in enumerate(draws) if one.temperature > 0]
    if random_rows:
        some = logits_NV if len(random_rows) == len(draws) else logits_NV[random_rows]
        chosen, logps = _random(some, [draws[row] for row in random_rows])
        for row, token, logp in zip(random_rows, chosen, logps, strict=True):
            tokens[row], logprobs[row] = token, logp
    return tokens, logprobs


def _likeliest(logits_NV: Tensor) -> tuple[list[int], list[float]]:
    if logits_NV.dtype == torch.float32 and logits_NV.device.type == "cpu" and decode_c.available() is None:
        return decode_c.likeliest(logits_NV.contiguous())
    best_N1 = logits_NV.argmax(-1, keepdim=True)
    logps_N1 = logits_NV.gather(1, best_N1) - logits_NV.logsumexp(-1, keepdim=True)
    return best_N1.flatten().tolist(), logps_N1.flatten().tolist()


def _random(logits_NV: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    if any(one.temperature != 1 for one in draws):
        # Shifted first: a small temperature must not turn the largest logits into infinities.
        logits_NV = logits_NV - logits_NV.amax(-1, keepdim=True)
        logits_NV = logits_NV.div_(torch.tensor([[max(one.temperature, 1e-30)] for one in draws]))
    for row, one in enumerate(draws):
        if not one.plain:
            logits_NV[row] = cut(logits_NV[row], one.top_k, one.top_p)
    logp_NV = torch.log_softmax(logits_NV, -1)
    sums_NV = logp_NV.exp().double().cumsum(-1)
    u_N1 = torch.tensor([[one.uniform()] for one in draws], dtype=torch.float64) * sums_NV[:, -1:]
    chosen_N1 = torch.searchsorted(sums_NV, u_N1, right=True)
    tokens = chosen_N1.flatten().tolist()
    return tokens, logp_NV.gather(1, chosen_N1).flatten().tolist()


def cut(logits_V: Tensor, top_k: int, top_p: float) -> Tensor:
    """-inf outside the `top_k` most likely tokens and, of what is left, outside the smallest set of mass `top_p`.

    Ties go to the lowest id. At least one token stays.
    """
    value_V, order_V = torch.sort(logits_V, descending=True, stable=True)
    keep_V = torch.isfinite(value_V)
    if top_k:
        keep_V[top_k:] = False
    if top_p < 1:
        share_V = torch.softmax(value_V.masked_fill(~keep_V, -torch.inf).double(), -1)
        keep_V &= share_V.cumsum(-1) - share_V < top_p
    keep_V[0] = True
    out_V = torch.full_like(logits_V, -torch.inf)
    kept_V = order_V[keep_V]
    out_V[kept_V] = logits_V[kept_V]
    return out_V
