"""From a Request to an OpenAI body, and from what compatible servers send to a Reply.

Token ids, where a server gives them, have vLLM's names: `prompt_token_ids` of the reply or the choice, `token_ids` of
the choice. Log-probabilities are what the server says they are (OpenAI's and vLLM's are the model's own, before
temperature and top-p), which `Reply.sampling["logprobs"]` keeps in mind.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from fairtrial.core.limits import Usage
from fairtrial.models.endpoints import prices
from fairtrial.models.endpoints.echo import Echoed, as_float, read_echo
from fairtrial.models.endpoints.retrying import TryFailedError
from fairtrial.models.model import Delta, Finish, Message, Request, Sampling, ToolCall

FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BROKEN = {"error", "abort", "cancelled"}


def message_fields(message: Message) -> dict[str, Any]:
    """A message as the chat API takes it. Reasoning and token ids are not sent back."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["content"] = message.content or None
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields


def sampling_fields(sampling: Sampling, max_tokens: str) -> dict[str, Any]:
    """How the reply is drawn, all of it said: servers differ in what they take for granted."""
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.max_tokens is not None:
        fields[max_tokens] = sampling.max_tokens
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.json_schema is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": sampling.json_schema, "strict": True},
        }
    return fields


def body(request: Request, model: str, max_tokens: str) -> dict[str, Any]:
    """The body of a request to /chat/completions or, for a text or ids to continue, to /completions."""
    fields: dict[str, Any] = {"model": model}
    if request.messages is not None:
        fields["messages"] = [message_fields(message) for message in request.messages]
        if request.tools:
            fields["tools"] = list(request.tools)
    else:
        fields["prompt"] = request.prompt if request.prompt is not None else list(request.prompt_ids or ())
    return fields | sampling_fields(request.sampling, max_tokens)


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


class OpenAIReader:
    """Puts together what a chat or completions server sends."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._ids: list[int] | None = None
        self._logprobs: list[float] | None = None
        self._bytes: list[bytes | None] = []
        self._answer_id = ""
        self.echoed: Echoed | None = None
        """Of a completions reply."""
        self.prompt_ids: tuple[int, ...] | None = None
        self.model: str | None = None
        """As the server calls it."""
        self.fingerprint: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the reply's end was seen."""
        return self._finish is not None

    def whole(self, data: dict[str, Any]) -> Delta | None:
        """Take a reply that came in one object."""
        self._about(data)
        choice = _choice(data)
        if choice is None:
            raise TryFailedError("bad_response", "the reply has no choices", status=200)
        part = choice.get("message") if "message" in choice else choice
        self.echoed = read_echo(choice.get("logprobs"))
        if not isinstance(part, dict):
            raise TryFailedError("bad_response", "the reply's choice has no message", status=200)
        delta = self._add(part, choice)
        self._finish = self._finish or "stop"
        return delta

    def piece(self, data: dict[str, Any]) -> Delta | None:
        """Take one chunk of a stream."""
        self._about(data)
        choice = _choice(data)
        if choice is None:
            return None
        if "message" in choice and "delta" not in choice:
            raise TryFailedError("bad_response", "a stream of whole messages instead of deltas", status=200)
        part = choice.get("delta") if "delta" in choice else choice
        return self._add(part if isinstance(part, dict) else {}, choice)

    def _about(self, data: dict[str, Any]) -> None:
        self._answer_id = self._answer_id or str(data.get("id") or "")
        if isinstance(data.get("model"), str):
            self.model = data["model"]
        if isinstance(data.get("system_fingerprint"), str):
            self.fingerprint = data["system_fingerprint"]
        if isinstance(data.get("usage"), dict):
            self._usage = data["usage"]
        if (ids := _ids(data.get("prompt_token_ids"))) is not None:
            self.prompt_ids = ids

    def _add(self, part: dict[str, Any], choice: dict[str, Any]) -> Delta | None:
        text = _text(part.get("content") if "content" in part else part.get("text"))
        reasoning = _text(part.get("reasoning_content") or part.get("reasoning"))
        refusal = _text(part.get("refusal"))
        calls = part.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            self._add_call(call, position)
        if (ids := _ids(choice.get("prompt_token_ids"))) is not None:
            self.prompt_ids = ids
        new_ids, logprobs = _ids(choice.get("token_ids")), _logprobs(choice.get("logprobs"))
        if new_ids is not None:
            self._ids = (self._ids or []) + list(new_ids)
        if logprobs is not None:
            self._logprobs = (self._logprobs or []) + logprobs
            self._bytes += _token_bytes(choice["logprobs"])
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            if finish in _BROKEN:
                raise TryFailedError("server_error", f'the reply ended with finish_reason "{finish}"', status=200)
            self._finish = finish
        self._text.append(text)
        self._reasoning.append(reasoning)
        self._refusal.append(refusal)
        if not (text or refusal or reasoning or new_ids or logprobs):
            return None
        return Delta(text + refusal, reasoning, new_ids or (), tuple(logprobs or ()))

    def _add_call(self, fragment: Any, position: int) -> None:
        if not isinstance(fragment, dict):
            raise TryFailedError("bad_response", "a tool call that is no object", status=200)
        index = fragment.get("index")
        if not isinstance(index, int):  # servers that leave it out send whole calls, or go on with the last one
            index = position if not self._calls else len(self._calls) - (0 if fragment.get("id") else 1)
        call = self._calls.setdefault(index, _Call())
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        call.id = call.id or str(fragment.get("id") or "")
        call.name = call.name or str(function.get("name") or "")
        arguments = function.get("arguments")
        if arguments is not None:
            call.arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Ids of the reply, where the server gave them."""
        return None if self._ids is None else tuple(self._ids)

    @property
    def logprobs(self) -> tuple[float, ...] | None:
        """Of the reply's tokens; None where the server gave none, or not one finite number for each id."""
        if self._logprobs is None or not all(math.isfinite(value) for value in self._logprobs):
            return None
        if self._ids is not None and len(self._ids) != len(self._logprobs):
            return None
        return tuple(self._logprobs)

    @property
    def token_bytes(self) -> tuple[bytes, ...] | None:
        """Of `ids`; None where the server does not tell all of them."""
        told = tuple(item for item in self._bytes if item is not None)
        return told if told and len(told) == len(self._bytes) == len(self._ids or ()) else None

    def message(self) -> Message:
        """The assistant's message."""
        calls = tuple(
            ToolCall(
                id=call.id or f"{self._answer_id or 'call'}-{index}",
                name=call.name,
                arguments="".join(call.arguments) or "{}",
            )
            for index, call in sorted(self._calls.items())
        )
        return Message(
            role="assistant",
            content="".join(self._text) + "".join(self._refusal),
            reasoning="".join(self._reasoning) or None,
            tool_calls=calls,
        )

    def finish(self) -> Finish:
        """How the reply ended."""
        if any(self._refusal):
            return "content_filter"
        finish = FINISHES.get(self._finish or "stop", "stop")
        return "tool_calls" if finish == "stop" and self._calls else finish

    def tokens(self) -> int | None:
        """Input and output tokens, where the server reports them."""
        found = [count(self._usage, name) for name in ("prompt_tokens", "completion_tokens")]
        return None if None in found else sum(number or 0 for number in found)

    def usage(self, price: prices.Price | None) -> tuple[Usage, tuple[str, ...]]:
        """What the call took, and notes on what is not known; ids are counted where no usage was reported."""
        given, output = count(self._usage, "prompt_tokens"), count(self._usage, "completion_tokens")
        if given is None and self.prompt_ids is not None:
            given = len(self.prompt_ids)
        if output is None and self._ids is not None:
            output = len(self._ids)
        if given is None or output is None:
            return Usage(calls=1, input_tokens=given or 0, output_tokens=output or 0), (prices.NO_USAGE,)
        details = self._usage.get("prompt_tokens_details")
        cached = count(details, "cached_tokens") if isinstance(details, dict) else None
        return prices.usage(price, input_tokens=given, output_tokens=output, cached=cached or 0)


def count(data: dict[str, Any], name: str) -> int | None:
    """A token count of a server's report; None where it is missing or no count."""
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _choice(data: dict[str, Any]) -> dict[str, Any] | None:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    if not isinstance(choices[0], dict):
        raise TryFailedError("bad_response", "a choice that is no object", status=200)
    return choices[0]


def _text(value: Any) -> str:
    """Text, or the text of a list of parts (some servers send those)."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _ids(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    return tuple(value) if whole else None


def _logprobs(value: Any) -> list[float] | None:
    """Of each new token, from the chat shape (`content`) or the completions shape (`token_logprobs`)."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        found = [item.get("logprob") if isinstance(item, dict) else None for item in value["content"]]
    elif isinstance(value.get("token_logprobs"), list):
        found = value["token_logprobs"]
    else:
        return None
    return [as_float(item) for item in found]


def _token_bytes(value: dict[str, Any]) -> list[bytes | None]:
    """The bytes of each new token, from the chat shape; None for a token without."""
    items = value.get("content")
    found: list[bytes | None] = []
    for item in items if isinstance(items, list) else ():
        octets = _ids(item.get("bytes")) if isinstance(item, dict) else None
        usable = octets is not None and all(0 <= octet < 256 for octet in octets)
        found.append(bytes(octets or ()) if usable else None)
    return found
