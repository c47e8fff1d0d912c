"""Speculative decoding with the model's own multi-token prediction: draft a few tokens, check them in one forward pass.

Drafting applies the one MTP block again and again, as it was trained: step j reads, at every position t, what step
j - 1 made there and the embedding of token t + 1 + j, and has a memory of its own over those inputs. More steps than
the model was trained with are possible. Checking is the standard rejection of speculative sampling (Leviathan et al.,
2211.17192; Chen et al., 2302.01318): whatever is drafted, the tokens are distributed as without drafting, and greedy
decoding gives the very same tokens. Source of the shared block: GLM-5 (2602.15763), section 2.
Legend: T time, D model width, V vocabulary, J drafted tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.nn.call import make_call
from fairtrial.nn.model import Model
from fairtrial.nn.state import LayerState, State

REREAD = 8
"""Tokens that a model which cannot roll back (KDA) reads again with the next drafts before they are read for good."""

Shape = Callable[[Tensor], Tensor]
"""Logits [..., V] to probabilities."""


def greedy(logits: Tensor) -> Tensor:
    """All probability on the highest logit (of equal ones the first)."""
    return functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()


def tempered(temperature: float) -> Shape:
    """Softmax of logits / temperature, in fp64. Raises UserError for a temperature that is not above 0."""
    if not temperature > 0:
        raise UserError(f"temperature: must be above 0, got {temperature}; use greedy for 0")
    return lambda logits: (logits.double() / temperature).softmax(-1)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a call of `Speculator.generate` added."""

    tokens: list[int]
    rounds: list[int]
    """Tokens that each forward pass of the model yielded: the drafts it accepted and its own next one."""
    drafted: int
    """Tokens that were drafted in all."""

    @property
    def accept_length(self) -> float:
        """Mean tokens per forward pass (1: drafting was no use)."""
        return sum(self.rounds) / max(len(self.rounds), 1)


class Speculator:
    """One sequence that is decoded with drafts. It holds the tokens, the model's state and the drafting steps' own."""

    def __init__(self, model: Model, drafts: int, *, exact: bool = False, backend: str = "auto") -> None:
        """`drafts`: J, tokens drafted at a time (0: plain decoding); `exact`, `backend`: of `Model.forward`.

        Raises UserError for a model without MTP.
        """
        if drafts < 0:
            raise UserError(f"drafts: must be at least 0, got {drafts}")
        if drafts and model.model.mtp is None:
            raise UserError("drafts: this model has no multi-token prediction (mtp_steps = 0); use drafts = 0")
        self.model, self.drafts, self.exact, self.backend = model, drafts, exact, backend
        self.tokens: list[int] = []
        self._state = model.init_state(1)
        mtp = model.model.mtp
        self._steps: list[LayerState] = [mtp.block.self_attn.init_state(1) for _ in range(drafts)] if mtp else []
        self._settled = 0
        """Positions that the drafting steps have read for good: all tokens that they read there are known."""
        self._stream: Tensor | None = None
        """[1, T, D], the model's residual stream from position `_settled` on, as far as it has read."""

    def read(self, tokens: Sequence[int]) -> None:
        """Add tokens that are given: a prompt, or what comes between two turns."""
        self.tokens += [int(token) for token in tokens]

    @torch.no_grad()
    def generate(
        self,
        count: int,
        *,
        shape: Shape = greedy,
        generator: torch.Generator | None = None,
        stop: Collection[int] = (),
    ) -> Spoken:
        """Decode `count` tokens, or up to the first one in `stop` (which is kept).

        Args:
            count: how many.
            shape: what logits become before sampling (`greedy`, `tempered`, or one's own top-k, top-p or grammar).
            generator: the source of chance; needed unless `shape` leaves no choice.
            stop: tokens that end it.

        Raises:
            UserError: nothing was read yet.
        """
        if not self.tokens:
            raise UserError("generate: read at least one token first")
        first, rounds, drafted = len(self.tokens), list[int](), 0
        while (left := count - (len(self.tokens) - first)) > 0:
            ids, odds_JV = self._draft(min(self.drafts, left - 1), shape, generator)
            drafted += len(ids)
            new = self._check(ids, odds_JV, shape, generator)
            ends = [place for place, token in enumerate(new) if token in stop]
            new = new[: ends[0] + 1] if ends else new
            self._accept(new)
            rounds.append(len(new))
            if ends:
                break
        return Spoken(self.tokens[first:], rounds, drafted)

    @torch.no_grad()
    def state(self) -> State:
        """The model's state after all tokens but the last, which is read with what follows."""
        end = len(self.tokens) - 1
        if self._state.positions[0] < end:
            self._forward(self.tokens[self._state.positions[0] : end])
        return self._state

    def _forward(self, tokens: Sequence[int]) -> Tensor:
        """Read tokens behind the state; keeps state and stream. Logits [T, V]."""
        start = self._state.positions[0]
        before = State(self._state.layers, self._state.positions).keep()
        output = self.model(torch.tensor([tokens]), before, exact=self.exact, backend=self.backend, mtp=False)
        assert output.state is not None and output.stream is not None
        self._state = output.state
        if not self.drafts:
            return output.logits[0]
        if self._stream is None or start <= self._settled:
            self._stream = output.stream[:, self._settled - start :]
        else:
            self._stream = torch.cat([self._stream[:, : start - self._settled], output.stream], 1)
        return output.logits[0]

    def _draft(self, count: int, shape: Shape, generator: torch.Generator | None) -> tuple[list[int], list[Tensor]]:
        """Up to `count` tokens and the probabilities [V] that each was drawn from."""
        last = len(self.tokens) - 1
        if self._state.positions[0] < last and (count and last - self._seen() > 0):
            self._forward(self.tokens[self._state.positions[0] : last])
        if not count or last < 1:
            return [], []
        self._settle(last)
        assert self._stream is not None
        hidden = self._stream[:, : last - self._settled]
        ids, odds = list[int](), list[Tensor]()
        for step in range(count):
            known = self.tokens + ids
            hidden, _ = self._advance(step, hidden, known)
            odds.append(shape(self._logits(hidden[:, -1])[0]))
            ids.append(_drawn(odds[-1], generator))
        return ids, odds

    def _seen(self) -> int:
        """Position behind the last one whose residual stream is known."""
        return self._settled + (0 if self._stream is None else self._stream.shape[1])

    def _settle(self, last: int) -> None:
        """Let every step read for good what is known by now: step j at t reads token t + 1 + j <= `last`."""
        new = min(last - 1, last + 1 - len(self._steps)) - self._settled
        if new <= 0:
            return
        assert self._stream is not None
        hidden = self._stream[:, :new]
        for step in range(len(self._steps)):
            hidden, self._steps[step] = self._advance(step, hidden, self.tokens)
        self._settled += new
        self._stream = self._stream[:, new:]

    def _advance(self, step: int, hidden_1TD: Tensor, tokens: Sequence[int]) -> tuple[Tensor, LayerState]:
        """One drafting step at the positions from `_settled` on."""
        mtp = self.model.model.mtp
        assert mtp is not None
        first, time = self._settled + 1 + step, hidden_1TD.shape[1]
        ahead = self.model.model.embed_tokens.weight[torch.tensor([tokens[first : first + time]])]
        call = make_call(ahead.shape[:2], None, [self._settled])
        call.exact, call.backend = self.exact, self.backend
        return mtp.advance(hidden_1TD, ahead, call, self._steps[step])

    def _logits(self, hidden_1D: Tensor) -> Tensor:
        mtp = self.model.model.mtp
        assert mtp is not None
        head = self.model.model.embed_tokens if self.model.lm_head is None else self.model.lm_head
        return functional.linear(mtp.norm(hidden_1D), head.weight)

    def _check(self, ids: list[int], odds: list[Tensor], shape: Shape, generator: torch.Generator | None) -> list[int]:
        """Read the drafts behind what is unread; the tokens that follow, one at least."""
        start = self._state.positions[0]
        logits_TV = self._forward(self.tokens[start:] + ids)
        return accepted(shape(logits_TV[len(self.tokens) - 1 - start :]), odds, ids, generator)

    def _accept(self, new: list[int]) -> None:
        """Take tokens into the sequence and the state back to before the last of them."""
        self.tokens += new
        end = len(self.tokens) - 1
        self._state = self._state.rollback(end)
        if self._stream is not None:
            self._stream = self._stream[:, : end - self._settled]
        if end - self._state.positions[0] > REREAD:
            self._forward(self.tokens[self._state.positions[0] : end])


def accepted(
    target_TV: Tensor, odds: Sequence[Tensor], ids: Sequence[int], generator: torch.Generator | None
) -> list[int]:
    """The drafts that stand, up to the first that is rejected, and one more token, distributed as without drafts.

    Args:
        target_TV: the model's probabilities [J + 1, V] at each draft and behind the last.
        odds: J times the probabilities [V] that the draft was drawn from.
        ids: the drafts.
        generator: the source of chance.
    """
    for place, (draft, odds_V) in enumerate(zip(ids, odds, strict=True)):
        p, q = float(target_TV[place, draft]), float(odds_V[draft])
        if p < q and not float(torch.rand((), generator=generator, dtype=torch.float64)) * q < p:
            return [*ids[:place], _drawn((target_TV[place] - odds_V).clamp(min=0), generator)]
    return [*ids, _drawn(target_TV[len(ids)], generator)]


def _drawn(weights_V: Tensor, generator: torch.Generator | None) -> int:
    """An index with probability in proportion to its weight."""
    certain = weights_V.nonzero()
    if len(certain) == 1:
        return int(certain)
    if generator is None:
        raise UserError("generate: sampling needs a generator (torch.Generator with a seed)")
    return int(torch.multinomial(weights_V, 1, generator=generator))
