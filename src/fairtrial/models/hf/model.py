"""A causal language model of transformers as a `Model`: requests to ids, ids to replies, the rest in the engine."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fairtrial.core.clock import Timer
from fairtrial.core.errors import UserError
from fairtrial.core.limits import Usage
from fairtrial.models.hf.chat import Chat, Prompt
from fairtrial.models.hf.engine import Engine, Job
from fairtrial.models.hf.kind import HuggingFaceSettings
from fairtrial.models.hf.loading import load
from fairtrial.models.hf.reply import Growing
from fairtrial.models.hf.words import Words
from fairtrial.models.model import (
    ContextTooLongError,
    Delta,
    Feature,
    Message,
    Pair,
    Reply,
    Request,
    Score,
    UnsupportedError,
)
from fairtrial.models.native.grammar import Grammars, Matcher
from fairtrial.models.native.sampling import Draw

T = TypeVar("T")
_HUGE = 10**9
"""Tokenizers write such a number where they know no length."""


class HuggingFaceModel:
    """A loaded model with its tokenizer and its engine."""

    def __init__(self, net: Any, tokenizer: Any, settings: HuggingFaceSettings, *, name: str) -> None:
        self.net, self.tokenizer, self._name = net, tokenizer, name
        self.weights_version: str | None = getattr(net.config, "_commit_hash", None)
        """The hub's commit; whoever changes the weights sets another."""
        self.words = Words(tokenizer)
        self.ends = ends_of(net, tokenizer)
        self._chat = Chat(self.words, self.ends, name)
        self._end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(self.ends, default=None)
        self._context = settings.context or context_of(net, tokenizer)
        self._width = net.get_output_embeddings().weight.shape[0]
        words: Any = self.words  # Grammars asks for bytes and ids alone
        self._grammars = None if self._end is None else Grammars(words, self._end, self._width)
        self._lock = threading.Lock()
        self.engine = Engine(
            net,
            vocab=min(self.words.vocab_size, self._width),
            slots=settings.max_batch,
            threads=settings.threads,
            exact=settings.exact,
            max_waiting=settings.max_waiting,
        )

    @classmethod
    def load(cls, settings: HuggingFaceSettings, base: Path) -> HuggingFaceModel:
        """From a folder or the hub. Raises UserError in one line that names what is at fault."""
        net, tokenizer, name = load(settings, base)
        return cls(net, tokenizer, settings, name=name)

    @property
    def name(self) -> str:
        """As in records."""
        return self._name

    @property
    def features(self) -> frozenset[Feature]:
        """What it can do; tools where the chat template knows them."""
        known: set[Feature] = {"score", "token-ids", "logprobs", "seed", "stream"}
        if self._chat.tools:
            known.add("tools")
        if self._grammars is not None and importlib.util.find_spec("llguidance") is not None:
            known.add("grammar")
        return frozenset(known)

    @property
    def context(self) -> int | None:
        """Tokens that prompt and reply may have together, where the configuration says it."""
        return self._context

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """See `Model.generate`. Nothing is waited for but the machine itself: `timer` is not touched.

        `Reply.sampling["verbatim"]` is False where the chat template did not let the ids of earlier replies through, so
        that their text was tokenised again.
        """
        prompt, matcher = await asyncio.to_thread(self._prepare, request)
        sampling = request.sampling
        room = None if self._context is None else self._context - len(prompt.ids)
        if room is not None and room < 1:
            raise ContextTooLongError(len(prompt.ids), self._context or 0, self.name)
        limits = [limit for limit in (room, sampling.max_tokens) if limit is not None]
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        job = Job(
            prompt.ids,
            Draw.of(sampling, seed),
            min(limits, default=None),
            self.ends,
            Growing(self.words, sampling.stop, self._chat if request.messages is not None and request.tools else None),
            matcher=matcher,
            on_delta=on_delta,
        )
        await self.engine.submit(job)
        return self._reply(request, prompt, job, seed)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """See `Model.score`."""
        from fairtrial.models.hf.score import score_hf

        return await self.run(lambda: score_hf(self.net, self.tokenizer, pairs))

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the engine's thread, where all work with `net` is done."""
        return await self.engine.run(function)

    async def close(self) -> None:
        """See `Model.close`."""
        await self.engine.close()

    def _prepare(self, request: Request) -> tuple[Prompt, Matcher | None]:
        with self._lock:  # tokenizers and their tables are for one thread at a time
            return self._prompt(request), self._matcher(request)

    def _matcher(self, request: Request) -> Matcher | None:
        sampling = request.sampling
        if sampling.json_schema is None and sampling.regex is None:
            return None
        if self._grammars is None:
            raise UnsupportedError(f'"{self.name}" has no end mark, so a grammar could never end: leave it out')
        return self._grammars.matcher(sampling)

    def _prompt(self, request: Request) -> Prompt:
        if request.messages is not None:
            return self._chat.prompt(request.messages, request.tools)
        if request.prompt is not None:
            ids = self.words.encode(request.prompt, start=True)
            if not ids:
                raise UserError("prompt: the tokenizer makes no tokens of it; give more text")
            return Prompt(ids)
        ids = list(request.prompt_ids or ())
        wrong = next((index for index in ids if not 0 <= index < self._width), None)
        if wrong is not None:
            raise UserError(
                f'prompt_ids: {wrong} is no token of "{self.name}" (0..{self._width - 1}); send its own ids'
            )
        return Prompt(ids)

    def _reply(self, request: Request, prompt: Prompt, job: Job, seed: int) -> Reply:
        ids = tuple(job.ids)
        used: dict[str, Any] = request.sampling.model_dump(exclude_defaults=True) | {
            "seed": seed,
            "temperature": request.sampling.temperature,
            "max_tokens": job.most,
        }
        if request.messages is not None:
            used["verbatim"] = prompt.verbatim
        return Reply(
            message=Message(role="assistant", content=job.growing.content, tool_calls=job.growing.calls, token_ids=ids),
            finish=job.finish,
            model=self.name,
            prompt_ids=tuple(prompt.ids),
            completion_ids=ids,
            logprobs=tuple(job.logprobs),
            usage=Usage(calls=1, input_tokens=len(prompt.ids), output_tokens=len(ids)),
            weights_version=self.weights_version,
            sampling=used,
            token_bytes=job.growing.bytes_of(ids, self.ends),
        )


def ends_of(net: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a reply: the generation configuration's and the tokenizer's."""
    given = getattr(getattr(net, "generation_config", None), "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    return frozenset(int(index) for index in [*listed, tokenizer.eos_token_id] if index is not None)


def context_of(net: Any, tokenizer: Any) -> int | None:
    """Tokens that the model takes, as its configuration says."""
    config = net.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        if isinstance(length := getattr(config, name, None), int):
            return length
    length = getattr(tokenizer, "model_max_length", None)
    return length if isinstance(length, int) and length < _HUGE else None
