"""A model of our own family as a `Model`: conversations to ids, ids to replies, everything else in the engine."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fairtrial.core.clock import Timer
from fairtrial.core.errors import UserError
from fairtrial.core.limits import Usage
from fairtrial.models.model import (
    ContextTooLongError,
    Delta,
    Feature,
    Finish,
    Message,
    Pair,
    Reply,
    Request,
    Score,
)
from fairtrial.models.native.chat import Chat
from fairtrial.models.native.engine import Engine, Job
from fairtrial.models.native.grammar import Grammars
from fairtrial.models.native.kind import NativeSettings, model_files
from fairtrial.models.native.sampling import Draw
from fairtrial.models.native.text import Text
from fairtrial.nn import hub, lowrank
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer

T = TypeVar("T")
_LONG = 20_000
"""Characters from which a prompt is encoded in a thread of its own: the event loop must not wait for it."""
_FEATURES: frozenset[Feature] = frozenset(("score", "token-ids", "logprobs", "tools", "seed", "grammar", "stream"))


class NativeModel:
    """A loaded model with its tokenizer and its engine."""

    def __init__(
        self,
        net: Model,
        tokenizer: Tokenizer,
        settings: NativeSettings,
        *,
        name: str,
        weights_version: str | None,
        turns: threading.Lock | None = None,
    ) -> None:
        """`turns`: see `Worker`. Raises UserError where model and tokenizer do not fit."""
        if tokenizer.vocab_size > net.config.vocab:
            raise UserError(
                f"{name}: the tokenizer has {tokenizer.vocab_size} ids and the model {net.config.vocab}; "
                "they are not of one training"
            )
        self.net, self.tokenizer, self.settings = net.eval(), tokenizer, settings
        self.weights_version = weights_version
        """Digest of the weights; set it when you change them (`changed`)."""
        self._name = name
        self._chat = Chat(tokenizer, where=name)
        self._grammars = Grammars(tokenizer, self._chat.end, net.config.vocab)
        self.engine = Engine(
            net,
            tokenizer,
            slots=settings.max_batch,
            threads=settings.threads,
            exact=settings.exact,
            prefix_bytes=settings.prefix_mib << 20,
            max_waiting=settings.max_waiting,
            turns=turns,
        )

    @classmethod
    def load(cls, folder: Path, settings: NativeSettings, *, adapter: Path | None = None) -> NativeModel:
        """From a folder, and an adapter's. Raises UserError in one line that names the file at fault."""
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder / 'tokenizer.json'}: no such file; put the model's tokenizer beside its weights")
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        net = hub.load(folder, mtp=False)
        name, version = folder.resolve().name, digest(folder)
        if adapter is not None:
            lowrank.merge(net, adapter, version)
            of = adapter.resolve()
            name = f"{name}+{of.parent.name if of.name == 'adapter' else of.name}"
            version = f"{version}+{lowrank.digest(adapter)}"
        return cls(net, tokenizer, settings, name=settings.name or name, weights_version=version)

    @property
    def name(self) -> str:
        """As in records."""
        return self._name

    @property
    def features(self) -> frozenset[Feature]:
        """Everything."""
        return _FEATURES

    @property
    def context(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self.settings.context

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """See `Model.generate`. Nothing is waited for but the machine itself: `timer` is not touched."""
        prompt = await self._prompt(request)
        room = self.context - len(prompt)
        if room < 1:
            raise ContextTooLongError(len(prompt), self.context, self.name)
        sampling = request.sampling
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        conversation = request.messages is not None
        text = None
        if on_delta is not None or sampling.stop:
            text = Text(self.tokenizer, sampling.stop, until=self._chat.call if conversation else None)
        job = Job(
            prompt,
            Draw.of(sampling, seed),
            room if sampling.max_tokens is None else min(room, sampling.max_tokens),
            self._chat.end,
            text=text,
            matcher=self._grammars.matcher(sampling),
            on_delta=None if on_delta is None else self._with_bytes(on_delta),
            borders=(prompt.index(self._chat.end) + 1,) if conversation else (),
            keep_end=conversation,
        )
        await self.engine.submit(job)
        return self._reply(request, job, seed)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """See `Model.score`."""
        from fairtrial.models.native.score import score_native

        return await self.run(lambda: score_native(self.net, self.tokenizer, pairs, context=self.context))

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the engine's thread, where all work with `net` is done."""
        return await self.engine.run(function)

    def changed(self, weights_version: str) -> None:
        """Say that `net` has other weights now. Only inside `run`, while no request is answered."""
        self.engine.weights_changed()
        self.weights_version = weights_version

    async def close(self) -> None:
        """See `Model.close`."""
        await self.engine.close()

    def _with_bytes(self, on_delta: Callable[[Delta], None]) -> Callable[[Delta], None]:
        return lambda delta: on_delta(replace(delta, token_bytes=self._bytes(delta.token_ids)))

    def _bytes(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """What each id stands for; the end mark for nothing."""
        return tuple(b"" if index == self._chat.end else self.tokenizer.decode_bytes((index,)) for index in ids)

    async def _prompt(self, request: Request) -> list[int]:
        if request.prompt_ids is not None:
            wrong = next((index for index in request.prompt_ids if not 0 <= index < self.tokenizer.vocab_size), None)
            if wrong is not None:
                last = self.tokenizer.vocab_size - 1
                raise UserError(f'prompt_ids: {wrong} is no token of "{self.name}" (0..{last}); send its own ids')
            return list(request.prompt_ids)
        if request.messages is not None:
            messages, tools = request.messages, request.tools
            size = sum(len(message.content) for message in messages)
            return await _away(size, lambda: self._chat.prompt(messages, tools))
        prompt = request.prompt or ""
        return await _away(len(prompt), lambda: self.tokenizer.encode_bytes(prompt))

    def _reply(self, request: Request, job: Job, seed: int) -> Reply:
        finish: Finish = "length" if job.finish == "length" else "stop"
        ids = tuple(job.ids)
        if request.messages is not None:
            parsed = self._chat.parse(ids, job.prompt)
            content, calls = parsed.content, () if job.text is not None and job.text.stopped else parsed.calls
        else:
            own = ids[:-1] if ids[-1] == job.end else ids
            content, calls = self.tokenizer.decode(own), ()
        if job.text is not None:
            content = job.text.content
        if calls and finish == "stop":
            finish = "tool_calls"
        used: dict[str, Any] = request.sampling.model_dump(exclude_defaults=True) | {
            "seed": seed,
            "temperature": request.sampling.temperature,
            "max_tokens": job.most,
        }
        return Reply(
            message=Message(role="assistant", content=content, tool_calls=calls, token_ids=ids),
            finish=finish,
            model=self.name,
            prompt_ids=tuple(job.prompt),
            completion_ids=ids,
            logprobs=tuple(job.logprobs),
            token_bytes=self._bytes(ids),
            usage=Usage(calls=1, input_tokens=len(job.prompt), output_tokens=len(ids), cached_tokens=job.cached),
            weights_version=self.weights_version,
            sampling=used,
        )


async def _away(characters: int, function: Callable[[], T]) -> T:
    return function() if characters < _LONG else await asyncio.to_thread(function)


def digest(folder: Path) -> str:
    """Of the configuration and the weights in a folder: the first 16 hex digits of a sha256."""
    total = hashlib.sha256()
    for path in model_files(folder):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]
