"""A decode engine: one worker thread that does all torch work, and an asyncio front.

A request joins the running batch between two steps and leaves it when it is finished or when its task is cancelled.
Prompts are read in pieces, between the steps of those that are already running, from the longest prefix that was read
before. Nothing of a request is kept in anything that another one reads, but for states of equal prefixes.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.models.activations import tapped
from fairtrial.models.model import Delta
from fairtrial.models.native.grammar import Matcher
from fairtrial.models.native.prefix import Prefixes
from fairtrial.models.native.sampling import Draw, draw
from fairtrial.models.native.text import Text
from fairtrial.models.worker import Ticket, Worker
from fairtrial.nn.decode import DecodeBatch, ForwardBatch, decode_batch, read
from fairtrial.nn.model import Model
from fairtrial.nn.state import State
from fairtrial.nn.tokenizer import Tokenizer

WORTH_KEEPING = 16
"""Tokens from which a prefix's state is kept."""
PIECE = 512
"""Tokens of prompts that are read between two steps."""


@dataclass(eq=False, slots=True)
class Job(Ticket):
    """One request in the engine."""

    prompt: list[int]
    draw: Draw
    most: int
    """Tokens to sample at most."""
    end: int
    """The id that ends the reply."""
    text: Text | None = None
    """Where the text is wanted while it grows."""
    matcher: Matcher | None = None
    borders: tuple[int, ...] = ()
    """Lengths of prefixes whose states are worth keeping."""
    keep_end: bool = False
    """Whether a later prompt may start with prompt and reply."""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    cached: int = 0
    """Tokens of the prompt that did not have to be read."""
    finish: str = ""
    state: State | None = None
    """While the prompt is read: after `at` tokens."""
    at: int = 0


class Engine(Worker[Job]):
    """Owns a model. What `run` is given calls `weights_changed` if it changed the weights."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        slots: int = 16,
        threads: int = 1,
        exact: bool = False,
        prefix_bytes: int = 256 << 20,
        max_waiting: int = 4096,
        turns: threading.Lock | None = None,
    ) -> None:
        """`slots`: sequences that decode together; `max_waiting` more requests wait, and one more is refused.

        `prefix_bytes`: for states of prefixes. `turns`: see `Worker`.
        """
        super().__init__(slots=slots, max_waiting=max_waiting, turns=turns)
        self.model, self.tokenizer, self._exact = model, tokenizer, exact
        extra = model.config.vocab > tokenizer.vocab_size
        self._unknown = torch.arange(model.config.vocab) >= tokenizer.vocab_size if extra else None
        self._modules = list(model.modules())
        self._hooked = False
        self._batch = self._new_batch()
        self.prefixes = Prefixes(prefix_bytes)
        self._start("fairtrial-decode", threads)

    def weights_changed(self) -> None:
        """Forget what was computed with the old weights. Only inside `run`, while nothing is decoding."""
        with torch.inference_mode():
            self._drop_cancelled()
        if self._running or self._reading:
            raise RuntimeError("the weights changed under running requests; wait for them first")
        self.prefixes.clear()
        self._batch = self._new_batch()

    # ---- on the worker ----

    def _turn(self) -> None:
        with torch.inference_mode():
            self._drop_cancelled()
            self._follow_hooks()
            self._admit()
            if self._reading:
                self._read()
            if self._running:
                self._step()

    def _renew(self) -> None:
        self._batch = self._new_batch()

    def _new_batch(self) -> DecodeBatch:
        if self._hooked:  # the lean step would go around the modules
            return ForwardBatch(self.model, exact=self._exact)
        return decode_batch(self.model, self.slots, exact=self._exact)

    def _follow_hooks(self) -> None:
        """Go through the model's modules as long as somebody hooks them; what is decoding goes on where it is."""
        if (hooked := tapped(self._modules)) == self._hooked:
            return
        self._hooked = hooked
        if hooked:
            for job in (*self._running, *self._reading):
                _keep_nothing(job)
        states = [self._batch.state(row) for row in range(len(self._running))]
        self._batch = self._new_batch()
        for state in states:
            self._batch.join(state)

    def _keep(self, tickets: list[Job]) -> None:
        for row in range(len(self._running) - 1, -1, -1):
            if self._running[row] not in tickets:
                self._leave(row)

    def _leave(self, row: int) -> None:
        self._batch.leave(row)
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last

    def _begin(self, job: Job) -> State:
        """Where reading a prompt starts. Found out late, so that a request profits from the one just before it."""
        kept = None if self._hooked else self.prefixes.find(job.prompt)
        if self._hooked:
            _keep_nothing(job)
        state = self.model.init_state() if kept is None else kept
        job.at = job.cached = state.positions[0]
        points = set() if self._hooked else {*job.borders, self.prefixes.shared(job.prompt), len(job.prompt) - 1}
        job.borders = tuple(sorted(point for point in points if point >= max(WORTH_KEEPING, job.at + 1)))
        return state

    def _read(self) -> None:
        """One pass over the next pieces of the prompts that wait longest; the last token is left to the first step."""
        pieces: list[tuple[list[int], State]] = []
        jobs: list[Job] = []
        room = PIECE
        for job in self._reading:
            if job.state is None:
                job.state = self._begin(job)
            last = len(job.prompt) - 1
            stop = min(next((point for point in job.borders if point > job.at), last), last, job.at + room)
            if stop > job.at:
                pieces.append((job.prompt[job.at : stop], job.state))
                jobs.append(job)
                room -= stop - job.at
            if room == 0 or (job.borders and self._shares(job)):
                break
        if pieces:
            for job, (ids, _), state in zip(jobs, pieces, read(self.model, pieces, exact=self._exact), strict=True):
                job.state, job.at = state, job.at + len(ids)
                if job.at in job.borders:
                    self.prefixes.keep(job.prompt[: job.at], state.clone())
        for job in [job for job in self._reading if job.state is not None and job.at == len(job.prompt) - 1]:
            assert job.state is not None
            self._reading.remove(job)
            self._batch.join(job.state)
            job.state = None
            self._running.append(job)

    def _shares(self, job: Job) -> bool:
        """Whether the next request begins like this one, so that it had better wait for this one's state."""
        place = self._reading.index(job) + 1
        border = next((point for point in job.borders if point > job.at), 0)
        return place < len(self._reading) and border > 0 and self._reading[place].prompt[:border] == job.prompt[:border]

    def _step(self) -> None:
        """One token for every running request."""
        logits_NV = self._batch.step([job.ids[-1] if job.ids else job.prompt[-1] for job in self._running])
        tokens, logprobs = self._draw(logits_NV, self._running)
        over: list[int] = []
        for row, job in enumerate(self._running):
            if job.error is not None or self._took(job, tokens[row], logprobs[row]):
                over.append(row)
        for row in reversed(over):
            job = self._running[row]
            if job.keep_end and job.error is None:
                self.prefixes.keep([*job.prompt, *job.ids[:-1]], self._batch.state(row))
            self._leave(row)
            self._finish(job, job.error)

    def _draw(self, logits_NV: Tensor, jobs: list[Job]) -> tuple[list[int], list[float]]:
        if not math.isfinite(float(logits_NV.sum())):
            raise ValueError("the model's logits are not finite: its weights are damaged")
        if self._unknown is not None:
            logits_NV.masked_fill_(self._unknown, -torch.inf)
        allowed: list[Tensor | None] = []
        for job in jobs:
            try:
                allowed.append(None if job.matcher is None else job.matcher.allowed())
            except UserError as error:  # this request's alone
                job.error = error
                allowed.append(None)
        return draw(logits_NV, [job.draw for job in jobs], allowed)

    def _took(self, job: Job, token: int, logprob: float) -> bool:
        """Note a sampled token; whether it was the last."""
        job.ids.append(token)
        job.logprobs.append(logprob)
        shown = ""
        if job.matcher is not None:
            job.matcher.accept(token)
        if token == job.end:
            job.finish = "stop"
        elif job.text is not None:
            shown = job.text.push(token)
            if job.text.stopped:
                job.finish = "stop"
        if not job.finish and len(job.ids) >= job.most:
            job.finish = "length"
        if job.finish and job.text is not None:
            shown += job.text.finish()
        if job.on_delta is not None:
            self._show(job, Delta(shown, token_ids=(token,), logprobs=(logprob,)))
        return bool(job.finish)


def _keep_nothing(job: Job) -> None:
    """What a hooked model computed is nobody else's prefix, also when the hooks are gone."""
    job.borders, job.keep_end = (), False
