"""A small real model for tests and examples: it says what a script tells it to, and fails where the script says so.

A script is a table, a TOML file or a JSON file: `rules` (the first that matches answers) and `replies` (the n-th
answers the n-th turn of a conversation). The same request gets the same reply: what turn it is, is read from the
request, and a fault with a probability is drawn from the seed, the request and how often it has come. Tokens are bytes
and marks (`byte_chat`), so ids, log-probabilities and usage are exact.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fairtrial.core.clock import Clock, SystemClock, Timer
from fairtrial.core.config import Config, parse, read_toml
from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.limits import Usage
from fairtrial.models import byte_chat
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
    UnsupportedError,
)

_GROUP = re.compile(r"\{(\d+)\}")
_FEATURES: frozenset[Feature] = frozenset({"score", "token-ids", "logprobs", "tools", "seed", "stream"})
_PIECE = 8
"""Tokens of a streamed piece."""


class Call(Config):
    """A tool call in a script."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    """A table, or the JSON text itself (which need not parse)."""


class Answer(Config):
    """One reply in a script."""

    text: str = ""
    reasoning: str | None = None
    tool_calls: tuple[Call, ...] = ()


class Rule(Answer):
    """A reply to what fits every condition given; without conditions, to everything.

    Conditions look at the last message of a user or a tool. `{1}` in the reply (text, reasoning, arguments) is the
    first group of `matches`, `{0}` the whole match.
    """

    contains: str | None = None
    matches: str | None = None
    """A regular expression, found anywhere."""
    call: int | None = Field(default=None, ge=1)
    """The n-th turn of the conversation, from 1."""

    @model_validator(mode="after")
    def _expression_compiles(self) -> Rule:
        if self.matches is not None:
            try:
                groups = re.compile(self.matches).groups
            except re.error as error:
                raise ValueError(f'matches: "{self.matches}" is not a regular expression: {error}') from None
            used = _GROUP.findall(self.model_dump_json(include={"text", "reasoning", "tool_calls"}))
            if (highest := max(map(int, used), default=0)) > groups:
                raise ValueError(f"{{{highest}}} is used, but matches has {groups} groups")
        return self


class Fault(Config):
    """Something that goes wrong on purpose: at calls by number, or with a probability."""

    kind: Literal["rate_limit", "server_error", "stall", "truncated", "malformed", "empty"]
    """stall: wait `seconds` first; truncated: fail after half of the reply; malformed: tool arguments lose their end;
    empty: a reply without text and calls."""
    calls: tuple[int, ...] = ()
    """Numbers of calls from 1, as they arrive at the model."""
    probability: float = Field(default=0.0, ge=0, le=1)
    seconds: float = Field(default=0.0, ge=0)
    """stall: how long; rate_limit: the wait that is asked for (0: none is named)."""


class Script(Config):
    """What a scripted model says, as in a table or a file."""

    name: str = "scripted"
    rules: tuple[Rule, ...] = ()
    replies: tuple[str | Answer, ...] = ()
    """In order; the n-th answers the n-th turn of each conversation."""
    after: Literal["error", "last", "again"] = "error"
    """A turn beyond the last of `replies`: an error, the last again, or from the first again."""
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    """Of faults with a probability."""
    context: int | None = Field(default=None, ge=1)
    """Tokens of prompt and reply together; None: no limit."""
    seconds_per_token: float = Field(default=0.0, ge=0)


class ScriptedSettings(Script):
    """A script in a file, in the settings, or both: a key here goes before the file's."""

    path: str | None = None
    """A TOML or JSON file of the same keys; a JSON list is `replies`."""


class Scripted:
    """The kind `scripted`."""

    settings_type = ScriptedSettings
    argument: ClassVar[str] = "path"

    @staticmethod
    def check(settings: ScriptedSettings, base: Path) -> None:
        """As `open`, which reads one small file."""
        Scripted.open(settings, base)

    @staticmethod
    def files(settings: ScriptedSettings, base: Path) -> tuple[Path, ...]:
        """The script, where it is a file."""
        return () if settings.path is None else (base / settings.path,)

    @staticmethod
    def open(settings: ScriptedSettings, base: Path) -> ScriptedModel:
        """The model. Raises UserError for a file that is not a script, or a script that says nothing."""
        given = settings.model_dump(exclude_unset=True, exclude={"path"})
        where = "scripted"
        if settings.path is not None:
            file = base / settings.path
            given, where = _read(file) | given, str(file)
        script = parse(Script, given, where=where)
        if not script.rules and not script.replies:
            raise UserError(f"{where}: the script says nothing; give replies or rules")
        return ScriptedModel(script, SystemClock())


class ScriptedModel:
    """A model that follows a script."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self._script, self._clock, self._arrived = script, clock, 0
        self._seen: Counter[bytes] = Counter()
        self._version = hashlib.sha256(script.model_dump_json().encode()).hexdigest()[:16]
        self._closed = False

    @property
    def name(self) -> str:
        """As the script says."""
        return self._script.name

    @property
    def features(self) -> frozenset[Feature]:
        """All but a grammar."""
        return _FEATURES

    @property
    def context(self) -> int | None:
        """As the script says."""
        return self._script.context

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Answer as the script says; see `Model.generate`. Raises UserError where the script has no answer."""
        if self._closed:
            raise RuntimeError("the model is closed")
        wanted = request.sampling
        if wanted.json_schema is not None or wanted.regex is not None:
            raise UnsupportedError(f'json_schema, regex: "{self.name}" follows its script, not a grammar; leave it out')
        prompt, said, turn = _prompt(request)
        room = wanted.max_tokens
        if self.context is not None:
            if len(prompt) >= self.context:
                raise ContextTooLongError(len(prompt), self.context, self.name)
            room = min(self.context - len(prompt), room or self.context)
        faults, waited = self._faults(request), 0.0
        answer = self._answer(said, turn)
        for fault in faults:
            if fault.kind == "stall":
                waited += fault.seconds
                with nullcontext() if timer is None else timer.waiting():
                    await self._clock.sleep(fault.seconds)
            answer = _spoilt(answer, fault)
        ids, finish = _cut(byte_chat.turn_ids(answer), wanted.stop, room)
        if any(fault.kind == "truncated" for fault in faults):
            await self._say(ids[: len(ids) // 2], on_delta)
            raise InfraError("the reply broke off (injected)", cause="truncated")
        await self._say(ids, on_delta)
        return self._reply(request, prompt, ids, finish, turn, waited)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Every byte is equally likely, 1 in 256, whatever the context; of equals the lowest id, 0, is the choice."""
        scores: list[Score] = []
        for pair in pairs:
            ids = byte_chat.encode(pair.continuation)
            each = -math.log(256)
            scores.append(
                Score(each * len(ids), (each,) * len(ids), len(pair.continuation), len(ids), greedy=not any(ids))
            )
        return scores

    async def close(self) -> None:
        """Later calls fail."""
        self._closed = True

    def _faults(self, request: Request) -> list[Fault]:
        """The faults of this call. Raises InfraError for those that leave no reply."""
        self._arrived += 1
        if not self._script.faults:
            return []
        digest = hashlib.sha256(request.model_dump_json().encode()).digest()
        draw = random.Random(f"{self._script.seed} {digest.hex()} {self._seen[digest]}")  # noqa: S311 - not a secret
        self._seen[digest] += 1
        drawn = [(fault, draw.random()) for fault in self._script.faults]
        now = [fault for fault, u in drawn if self._arrived in fault.calls or u < fault.probability]
        for fault in now:
            if fault.kind == "rate_limit":
                wait = fault.seconds or None
                raise InfraError("too many requests (injected)", cause="rate_limit", retry_after_s=wait)
            if fault.kind == "server_error":
                raise InfraError("the provider failed (injected)", cause="server_error")
        return now

    def _answer(self, said: str, turn: int) -> byte_chat.Turn:
        """What the script says to `said` in turn `turn` (from 1)."""
        for rule in self._script.rules:
            found = re.search(rule.matches, said) if rule.matches is not None else None
            if (
                (rule.matches is None or found)
                and (rule.contains is None or rule.contains in said)
                and (rule.call is None or rule.call == turn)
            ):
                return _filled(rule, found)
        replies = self._script.replies
        if turn <= len(replies):
            index = turn - 1
        elif not replies or self._script.after == "error":
            shown = " ".join(said.split())[:80]
            raise UserError(
                f'"{self.name}" has no answer to turn {turn} ("{shown}"); add a rule or a reply'
                + (', or set after = "last"' if replies else "")
            )
        else:
            index = -1 if self._script.after == "last" else (turn - 1) % len(replies)
        reply = replies[index]
        return _filled(Answer(text=reply) if isinstance(reply, str) else reply, None)

    async def _say(self, ids: Sequence[int], on_delta: Callable[[Delta], None] | None) -> None:
        """Take the time that the tokens take, and hand on the pieces."""
        pause = self._script.seconds_per_token
        if on_delta is None:
            await self._clock.sleep(pause * len(ids))
            return
        part = "text"
        text, reasoning = (codecs.getincrementaldecoder("utf-8")("replace") for _ in range(2))
        for start in range(0, len(ids), _PIECE):
            await self._clock.sleep(pause * len(ids[start : start + _PIECE]))
            piece, pieces = tuple(ids[start : start + _PIECE]), {"text": bytearray(), "reasoning": bytearray()}
            for i in piece:
                part = {byte_chat.THINK: "reasoning", byte_chat.SAY: "text", byte_chat.CALL: "call"}.get(i, part)
                if i < 256 and part in pieces:
                    pieces[part].append(i)
            last = start + _PIECE >= len(ids)
            on_delta(
                Delta(
                    text=text.decode(bytes(pieces["text"]), last),
                    reasoning=reasoning.decode(bytes(pieces["reasoning"]), last),
                    token_ids=piece,
                    logprobs=(0.0,) * len(piece),
                    token_bytes=byte_chat.token_bytes(piece),
                )
            )

    def _reply(
        self, request: Request, prompt: tuple[int, ...], ids: tuple[int, ...], finish: Finish, turn: int, waited: float
    ) -> Reply:
        said = byte_chat.read_turn(ids)
        calls = byte_chat.calls_of(said, turn if request.messages is None else byte_chat.next_number(request.messages))
        message = Message(
            role="assistant", content=said.text, reasoning=said.reasoning, tool_calls=calls, token_ids=ids
        )
        sampling = request.sampling
        return Reply(
            message=message,
            finish="tool_calls" if calls and finish == "stop" else finish,
            model=self.name,
            prompt_ids=prompt,
            completion_ids=ids,
            logprobs=(0.0,) * len(ids),
            usage=Usage(calls=1, input_tokens=len(prompt), output_tokens=len(ids)),
            weights_version=self._version,
            sampling={"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed or 0},
            waited_s=waited,
            token_bytes=byte_chat.token_bytes(ids),
        )


def _prompt(request: Request) -> tuple[tuple[int, ...], str, int]:
    """The prompt's ids, what was said last by a user or a tool, and which turn this is, from 1."""
    if request.messages is not None:
        ids = byte_chat.conversation_ids(request.messages, request.tools)
        heard = [message.content for message in request.messages if message.role in ("user", "tool")]
        turn = 1 + sum(message.role == "assistant" for message in request.messages)
        return ids, heard[-1] if heard else "", turn
    if request.prompt is not None:
        return tuple(byte_chat.encode(request.prompt)), request.prompt, 1
    ids = tuple(byte_chat.check(request.prompt_ids or ()))
    said, turns = byte_chat.read_prompt(ids)
    return ids, said, turns + 1


def _filled(answer: Answer, found: re.Match[str] | None) -> byte_chat.Turn:
    """The answer as it is said, with the groups of what matched."""
    groups: tuple[str | None, ...] = () if found is None else (found[0], *found.groups())

    def fill(value: Any) -> Any:
        if not groups:
            return value
        if isinstance(value, str):
            return _GROUP.sub(lambda at: groups[int(at[1])] or "", value)
        if isinstance(value, dict):
            return {fill(key): fill(inner) for key, inner in value.items()}
        return [fill(inner) for inner in value] if isinstance(value, list | tuple) else value

    calls: list[tuple[str, str]] = []
    for call in answer.tool_calls:
        arguments = fill(call.arguments)
        calls.append((call.name, arguments if isinstance(arguments, str) else json.dumps(arguments)))
    return byte_chat.Turn(fill(answer.text), fill(answer.reasoning), tuple(calls))


def _spoilt(turn: byte_chat.Turn, fault: Fault) -> byte_chat.Turn:
    """The turn after a fault that changes what is said."""
    if fault.kind == "empty":
        return byte_chat.Turn()
    if fault.kind == "malformed":
        return byte_chat.Turn(
            turn.text, turn.reasoning, tuple((name, arguments[:-1]) for name, arguments in turn.calls)
        )
    return turn


def _cut(ids: list[int], stops: Sequence[str], room: int | None) -> tuple[tuple[int, ...], Finish]:
    """Ids up to the first stop text (not part of them) or the room for tokens; else with the end mark."""
    start = ids.index(byte_chat.SAY) + 1 if byte_chat.SAY in ids else 0
    end = next((index for index in range(start, len(ids)) if ids[index] >= 256), len(ids))
    text = bytes(ids[start:end])
    found = [at for stop in stops if (at := text.find(byte_chat.encode(stop))) >= 0]
    cut = ids[: start + min(found)] if found else [*ids, byte_chat.END]
    if room is not None and len(cut) > room:
        return tuple(cut[:room]), "length"
    return tuple(cut), "stop"


def _read(path: Path) -> dict[str, Any]:
    """A script's keys from its file. Raises UserError."""
    if path.suffix != ".json":
        return read_toml(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if isinstance(data, list):
        return {"replies": data}
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a table (rules, replies ...) or a list of replies")
    return data
