"""Probes of sequence mixers that need no training: what a state of fixed size can store, overwrite and forget.

They isolate the two parts that Kimi Delta Attention (arXiv:2510.26692, section 3) adds to linear attention: the delta
rule (erase before write) and a decay for each key channel instead of one for each head. Keys are exact and gates are
chosen by hand or by search, so that a result says what the recurrence can do, not what a run happened to learn.

Axes: B independent draws, T steps, H heads, K key width, V value width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.nn.ops.kda import kda

Gate = Literal["none", "scalar", "channel"]

CLOSED = -1000.0
"""A log decay that forgets everything: exp of it is 0 in any precision."""


@dataclass(frozen=True, slots=True)
class Mixer:
    """What the probes distinguish: the write rule and the gate; no `state` means softmax over all stored."""

    title: str
    delta: bool
    gate: Gate
    state: bool = True


HEBBIAN = Mixer("Hebbian (linear attention)", delta=False, gate="none")
DELTA = Mixer("delta rule, no gate", delta=True, gate="none")
SOFTMAX = Mixer("softmax attention, no positions", delta=False, gate="none", state=False)
LETTERS = {
    "K": Mixer("KDA: delta rule, channel gate", delta=True, gate="channel"),
    "C": Mixer("KDA without short convolution", delta=True, gate="channel"),
    "G": Mixer("delta rule, scalar gate", delta=True, gate="scalar"),
    "N": Mixer("no delta rule, channel gate", delta=False, gate="channel"),
    **dict.fromkeys("FPMDSW", SOFTMAX),
}
"""The mixer behind each letter of a model's pattern. A short convolution and rotation change none of these probes."""


def read(mixer: Mixer, q_BTK: Tensor, k_BTK: Tensor, v_BTV: Tensor, g_BTK: Tensor, beta_BT: Tensor) -> Tensor:
    """What one head of `mixer` answers, [B, T, V], without the 1/sqrt(K) on queries; beta = 0 writes nothing.

    Softmax attention reads with a sharpness of 1000: it returns the mean of the values stored under the best key.
    """
    if not mixer.state:
        scores_BTS = 1000.0 * q_BTK @ k_BTK.mT
        unseen_BTS = torch.ones_like(scores_BTS).triu(1) > 0
        scores_BTS = scores_BTS.masked_fill(unseen_BTS | (beta_BT[:, None, :] == 0), -torch.inf)
        return torch.nan_to_num(scores_BTS.softmax(-1)) @ v_BTV
    if mixer.delta:
        heads = (x.unsqueeze(2) for x in (q_BTK, k_BTK, v_BTV, g_BTK, beta_BT))
        return kda(*heads, scale=1.0, backend="recurrent")[0].squeeze(2)
    state_BKV = torch.zeros(k_BTK.shape[0], k_BTK.shape[2], v_BTV.shape[2], dtype=v_BTV.dtype)
    out: list[Tensor] = []
    for step in range(k_BTK.shape[1]):
        write_BV = beta_BT[:, step, None] * v_BTV[:, step]
        state_BKV = g_BTK[:, step].exp().unsqueeze(-1) * state_BKV + k_BTK[:, step].unsqueeze(-1) * write_BV[:, None]
        out.append((q_BTK[:, step].unsqueeze(1) @ state_BKV).squeeze(1))
    return torch.stack(out, 1)


def overwrite(mixer: Mixer, *, pairs: int = 8, width: int = 16, draws: int = 64, seed: int = 0) -> float:
    """Store orthonormal keys, store the first one again with another value, ask for it; nothing decays.

    Returns the squared error against the second value over the size of the first: 0 means that the old value is gone,
    1 that both are returned in sum, about 0.5 that their mean is. Raises UserError where `pairs` exceeds `width`.
    """
    if pairs > width:
        raise UserError(f"overwrite: pairs = {pairs} needs width >= {pairs} (got {width}): the keys are orthogonal")
    rng = torch.Generator().manual_seed(seed)
    basis_BKK = torch.linalg.qr(torch.randn(draws, width, width, generator=rng, dtype=torch.float64))[0]
    k_BTK = torch.cat([basis_BKK[:, :pairs], basis_BKK[:, :1]], 1)
    v_BTV = torch.randn(draws, pairs + 1, width, generator=rng, dtype=torch.float64)
    answer_BV = read(mixer, k_BTK, k_BTK, v_BTV, torch.zeros_like(k_BTK), torch.ones(k_BTK.shape[:2]).double())[:, -1]
    return ((answer_BV - v_BTV[:, -1]).square().sum() / v_BTV[:, 0].square().sum()).item()


def stream(gate: Gate, *, length: int = 64, draws: int = 256, seed: int = 0) -> float:
    """Two channels at once: hold the first value of one and follow a fresh value at each step of the other.

    Writes are Hebbian, so that only the gate can clear the second channel. Returns the error of the first channel plus
    that of the second (values have unit variance) under the best gate of its kind: two decays (1 and 0) for "channel",
    a search over one decay for "scalar", none for "none".
    """
    rng = torch.Generator().manual_seed(seed)
    k_BTK = torch.zeros(draws, length, 2, dtype=torch.float64)
    k_BTK[:, 0, 0] = k_BTK[:, 1:, 1] = 1.0
    v_BTV = torch.randn(draws, length, 1, generator=rng, dtype=torch.float64)
    beta_BT = torch.ones(draws, length, dtype=torch.float64)

    def error(g_hold: float, g_follow: float) -> float:
        g_BTK = torch.tensor([g_hold, g_follow], dtype=torch.float64).expand_as(k_BTK)
        held_BTV, followed_BTV = _both_channels(HEBBIAN, k_BTK, v_BTV, g_BTK, beta_BT)
        held = (held_BTV[:, 1:] - v_BTV[:, :1]).square().mean()
        return (held + (followed_BTV - v_BTV)[:, 1:].square().mean()).item()

    if gate == "channel":
        return error(0.0, CLOSED)
    return error(0.0, 0.0) if gate == "none" else min(error(g, g) for g in _scalar_gates(1))


def _both_channels(mixer: Mixer, k_BTK: Tensor, v_BTV: Tensor, g_BTK: Tensor, beta_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What is read from the first and from the second key channel at every step, [B, T, V] each."""
    ask_first, ask_second = torch.eye(2, dtype=k_BTK.dtype)
    first = read(mixer, ask_first.expand_as(k_BTK), k_BTK, v_BTV, g_BTK, beta_BT)
    return first, read(mixer, ask_second.expand_as(k_BTK), k_BTK, v_BTV, g_BTK, beta_BT)


def _scalar_gates(steps: int) -> list[float]:
    """Log decays whose effect over `steps` steps covers 0 to 1 evenly."""
    return (torch.linspace(0.0, 1.0, 41, dtype=torch.float64).clamp(min=1e-9).log() / steps).tolist()


def retain_and_forget(mixer: Mixer, *, idle: int = 32, draws: int = 64, seed: int = 0) -> float:
    """Store one value to keep and one to lose, wait without writing, ask for both; the right answers are v and 0.

    Returns the sum of both squared errors (values have unit variance) under the best gate of the mixer's kind: a
    channel gate can do both (0), one scalar decay must compromise (0.5 at best), without a gate nothing is lost (1).
    """
    rng = torch.Generator().manual_seed(seed)
    steps = idle + 2
    k_BTK = torch.zeros(draws, steps, 2, dtype=torch.float64)
    k_BTK[:, 0, 0] = k_BTK[:, 1, 1] = 1.0
    v_BTV = torch.randn(draws, steps, 1, generator=rng, dtype=torch.float64)
    beta_BT = torch.zeros(draws, steps, dtype=torch.float64)
    beta_BT[:, :2] = 1.0

    def error(g_keep: float, g_lose: float) -> float:
        g_BTK = torch.tensor([g_keep, g_lose], dtype=torch.float64).expand(draws, steps, 2).clone()
        g_BTK[:, :2] = 0.0
        kept_BTV, lost_BTV = _both_channels(mixer, k_BTK, v_BTV, g_BTK, beta_BT)
        kept_B, lost_B = kept_BTV[:, -1, 0] - v_BTV[:, 0, 0], lost_BTV[:, -1, 0]
        return (kept_B.square().sum() / v_BTV[:, 0].square().sum()).item() + (
            lost_B.square().sum() / v_BTV[:, 1].square().sum()
        ).item()

    if mixer.gate == "channel":
        return error(0.0, CLOSED)
    if mixer.gate == "none":
        return error(0.0, 0.0)
    return min(error(g, g) for g in _scalar_gates(idle))


def retrieval(
    mixer: Mixer, pairs: int, *, width: int = 32, decay: float = 1.0, draws: int = 16, seed: int = 0
) -> float:
    """Store `pairs` random unit keys of `width` with random values, then ask for all of them.

    Returns the mean squared error over the values' size. With random keys a Hebbian state errs by about
    (pairs - 1) / width; the delta rule errs less until the state is full; `decay` multiplies the state at each write.
    """
    rng = torch.Generator().manual_seed(seed)
    k_BTK = torch.nn.functional.normalize(torch.randn(draws, pairs, width, generator=rng, dtype=torch.float64), dim=-1)
    v_BTV = torch.randn(draws, pairs, width, generator=rng, dtype=torch.float64)
    k_BTK, q_BTK = torch.cat([k_BTK, torch.zeros_like(k_BTK)], 1), torch.cat([torch.zeros_like(k_BTK), k_BTK], 1)
    beta_BT = torch.cat([torch.ones(draws, pairs), torch.zeros(draws, pairs)], 1).double()
    g_BTK = (beta_BT * float(torch.tensor(decay).log())).unsqueeze(-1).expand_as(k_BTK).contiguous()
    answers_BTV = read(mixer, q_BTK, k_BTK, torch.cat([v_BTV, torch.zeros_like(v_BTV)], 1), g_BTK, beta_BT)[:, pairs:]
    return ((answers_BTV - v_BTV).square().sum() / v_BTV.square().sum()).item()


def probe(name: Literal["overwrite", "two-channel"], pattern: str, seed: int) -> float:
    """1 minus the error (0 at least) of the best mixer in a model's pattern: any layer that can do it is enough."""
    mixers = [LETTERS[letter] for letter in sorted(set(pattern))]
    errors = [
        overwrite(mixer, seed=seed) if name == "overwrite" else retain_and_forget(mixer, seed=seed) for mixer in mixers
    ]
    return max(0.0, 1.0 - min(errors))
