"""Decoding of transformers' models: one worker thread that does all torch work, and an asyncio front.

Our own loop over `model(...)` with its cache, not `model.generate`. A request joins between two steps and leaves when
it is finished or when its task is cancelled. Exact, each request is computed on its own, so that a reply depends on its
request alone, bitwise; else those that run are one batch, padded at the left, and rounding depends on the company.
Legend: B batch, T time, S cached tokens, V vocabulary, N running requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.models.hf.reply import Growing
from fairtrial.models.model import Delta, Finish
from fairtrial.models.native.grammar import Matcher
from fairtrial.models.native.sampling import Draw, draw
from fairtrial.models.worker import Ticket, Worker

PIECE = 1024
"""Tokens of a prompt that are read at once; between pieces others take a step, and a cancelled one leaves."""


@dataclass(eq=False, slots=True)
class Job(Ticket):
    """One request in the engine."""

    prompt: list[int]
    draw: Draw
    most: int | None
    """Tokens to sample at most; None: until an end mark."""
    ends: frozenset[int]
    growing: Growing
    matcher: Matcher | None = None
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish: Finish = "stop"
    cache: Any = None
    """Of this request alone; None while it is part of the batch's."""
    at: int = 0
    """Tokens in the cache."""


class Engine(Worker[Job]):
    """Owns a model."""

    def __init__(
        self, model: Any, *, vocab: int, slots: int, threads: int | None, exact: bool, max_waiting: int = 4096
    ) -> None:
        """`vocab`: ids that exist; `slots`: requests that run at once, `max_waiting` more wait; `threads`: of torch."""
        super().__init__(slots=slots, max_waiting=max_waiting)
        self.model, self._vocab = model, vocab
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._known = frozenset(inspect.signature(base.forward).parameters)
        plain = _plain(model.config)
        self._pieces = plain  # a recurrent state may be lost when more than one token follows it
        self._batch = Batch() if plain and not exact and "position_ids" in self._known else None
        self._start("fairtrial-hf", threads)

    # ---- on the worker ----

    def _turn(self) -> None:
        with torch.no_grad():  # not inference mode: hooks may read activations that gradients go through later
            self._drop_cancelled()
            self._admit()
            budget = PIECE  # of prompts between two steps
            while self._reading and budget > 0:
                budget -= self._read(self._reading[0])
            if self._running:
                self._step()

    def _renew(self) -> None:
        if self._batch is not None:
            self._batch = Batch()

    def _keep(self, tickets: list[Job]) -> None:
        if self._batch is not None:
            self._batch.keep([row for row, job in enumerate(self._running) if job in tickets])
        self._running = tickets

    def _read(self, job: Job) -> int:
        """One piece of a prompt; after the last one the first token is drawn and the request joins the others.

        Returns how many tokens were read.
        """
        piece = job.prompt[job.at : job.at + PIECE] if self._pieces else job.prompt
        try:
            logits_V = self._forward(job, piece)
            if job.at < len(job.prompt):
                self._reading.rotate(-1)
                return len(piece)
            tokens, logprobs = self._draw(logits_V[None], [job])
            self._reading.remove(job)
            if self._took(job, tokens[0], logprobs[0]):
                self._finish(job)
                return len(piece)
            if self._batch is not None:
                self._batch.join(job.cache, job.at)
                job.cache = None
            self._running.append(job)
        except Exception as error:  # noqa: BLE001 - this request's alone
            if job in self._reading:
                self._reading.remove(job)
            self._finish(job, error)
        return len(piece)

    def _forward(self, job: Job, tokens: list[int]) -> Tensor:
        """Logits [V] behind tokens of one request, which its cache then holds too."""
        tokens_1T = torch.tensor([tokens], device=self.model.device)
        more: dict[str, Any] = {}
        if "position_ids" in self._known:
            more["position_ids"] = torch.arange(job.at, job.at + len(tokens), device=self.model.device)[None]
        out = self._pass(tokens_1T, job.cache, more)
        job.cache, job.at = out.past_key_values, job.at + len(tokens)
        return out.logits[0, -1].float().cpu()

    def _pass(self, tokens_BT: Tensor, cache: Any, more: dict[str, Any]) -> Any:
        if "logits_to_keep" in self._known:
            more["logits_to_keep"] = 1
        out = self.model(input_ids=tokens_BT, past_key_values=cache, use_cache=True, return_dict=True, **more)
        if getattr(out, "past_key_values", None) is None:
            raise UserError(f"{type(self.model).__name__} keeps no past_key_values, so it cannot be decoded here")
        return out

    def _step(self) -> None:
        """One token for every running request."""
        over: dict[Job, BaseException | None] = {}
        if self._batch is None:
            for job in self._running:
                try:
                    tokens, logprobs = self._draw(self._forward(job, job.ids[-1:])[None], [job])
                    if self._took(job, tokens[0], logprobs[0]):
                        over[job] = None
                except Exception as error:  # noqa: BLE001 - this request's alone
                    over[job] = error
        else:
            logits_NV = self._batch.step(self._pass, [job.ids[-1] for job in self._running], self.model.device)
            drawn = self._draw(logits_NV, self._running)
            for job, token, logprob in zip(self._running, *drawn, strict=True):
                if job.error is not None or self._took(job, token, logprob):
                    over[job] = job.error
        if over:
            self._keep([job for job in self._running if job not in over])
        for job, error in over.items():  # last, so that whoever has a reply sees the slot free
            self._finish(job, error)

    def _draw(self, logits_NV: Tensor, jobs: list[Job]) -> tuple[list[int], list[float]]:
        """A token for each row; a grammar that cannot go on becomes its request's `error`."""
        if not bool(torch.isfinite(logits_NV[:, : self._vocab]).all()):
            raise ValueError("the model's logits are not finite: its weights are damaged")
        logits_NV[:, self._vocab :] = -torch.inf
        allowed: list[Tensor | None] = []
        for job in jobs:
            try:
                allowed.append(None if job.matcher is None else job.matcher.allowed())
            except Exception as error:
                if len(jobs) == 1:
                    raise
                job.error = error
                allowed.append(None)
        return draw(logits_NV, [job.draw for job in jobs], allowed)

    def _took(self, job: Job, token: int, logprob: float) -> bool:
        """Note a sampled token; whether it was the last."""
        job.ids.append(token)
        job.logprobs.append(logprob)
        if job.matcher is not None:
            job.matcher.accept(token)
        ended = token in job.ends
        shown = "" if ended else job.growing.push(token)
        over = ended or job.growing.stopped
        if not over and job.most is not None and len(job.ids) >= job.most:
            job.finish, over = "length", True
        if over:
            shown += job.growing.finish(job.ids, job.prompt)
            if job.growing.calls and job.finish == "stop":
                job.finish = "tool_calls"
        if job.on_delta is not None:
            known = job.growing.bytes_of([token], job.ends)
            self._show(job, Delta(shown, token_ids=(token,), logprobs=(logprob,), token_bytes=known))
        return over

    def _finish(self, ticket: Job, error: BaseException | None = None) -> None:
        ticket.cache = None
        super()._finish(ticket, error)


class Batch:
    """The caches of several requests as one, each at the right end of its row."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._cache: Any = None

    def join(self, cache: Any, length: int) -> None:
        """Add a row at the end."""
        if self._cache is None:
            self._cache, self.lengths = cache, [length]
            return
        width = max(*self.lengths, length)
        for own, new in zip(self._cache.layers, cache.layers, strict=True):
            own.keys = torch.cat([_wide(own.keys, width), _wide(new.keys, width)])
            own.values = torch.cat([_wide(own.values, width), _wide(new.values, width)])
        self.lengths.append(length)

    def keep(self, rows: list[int]) -> None:
        """Only these rows, in this order."""
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self._cache = None
            return
        width = max(self.lengths)
        for layer in self._cache.layers:
            index = torch.tensor(rows, device=layer.keys.device)
            layer.keys = layer.keys[index, :, -width:]
            layer.values = layer.values[index, :, -width:]

    def step(self, forward: Callable[..., Any], tokens: list[int], device: torch.device) -> Tensor:
        """Logits [N, V] behind one more token in each row."""
        lengths_N1 = torch.tensor(self.lengths, device=device)[:, None]
        width = max(self.lengths) + 1
        mask_NS = (torch.arange(width, device=device) >= width - 1 - lengths_N1).long()
        tokens_N1 = torch.tensor(tokens, device=device)[:, None]
        out = forward(tokens_N1, self._cache, {"position_ids": lengths_N1, "attention_mask": mask_NS})
        self._cache, self.lengths = out.past_key_values, [length + 1 for length in self.lengths]
        return out.logits[:, -1].float().cpu()


def _plain(config: Any) -> bool:
    """Whether a model of this configuration caches keys and values, all of them, and nothing else."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def _wide(x_BHSE: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x_BHSE, (0, 0, width - x_BHSE.shape[2], 0))
