"""From a Request to a body of Anthropic's Messages API, and from its blocks and events to a Reply.

A thinking block must go back, signed, in front of the tool calls that followed it, but a Message holds no signature:
`Thoughts` keeps the blocks by the first tool call behind them, as long as the model is open.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from fairtrial.core.limits import Usage
from fairtrial.models.endpoints import prices
from fairtrial.models.endpoints.openai_wire import count
from fairtrial.models.endpoints.retrying import TryFailedError
from fairtrial.models.model import Delta, Finish, Message, Request, ToolCall, UnsupportedError

FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_THINKING = ("thinking", "redacted_thinking")


class Thoughts:
    """Thinking blocks that may have to go back, by the id of the first tool call behind them."""

    def __init__(self, most: int = 4096) -> None:
        self._blocks: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        self._most = most

    def keep(self, call_id: str, blocks: list[dict[str, Any]]) -> None:
        """Keep `blocks`; the oldest are forgotten beyond the size."""
        self._blocks[call_id] = blocks
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def before(self, call_id: str) -> list[dict[str, Any]]:
        """The blocks that belong before that call."""
        return self._blocks.get(call_id, [])


def body(request: Request, model: str, max_tokens: int, thoughts: Thoughts) -> dict[str, Any]:
    """The body of a request to /v1/messages. Raises UnsupportedError for what the API does not take."""
    sampling = request.sampling
    if request.messages is None:
        raise UnsupportedError(f'"{model}" answers messages only: give messages instead of a prompt')
    for name, given in (("seed", sampling.seed is not None), ("regex", sampling.regex is not None)):
        if given:
            raise UnsupportedError(f'"{model}" takes no {name}: leave sampling.{name} unset')
    system, turns = _turns(request.messages, model, thoughts)
    fields: dict[str, Any] = {"model": model, "max_tokens": sampling.max_tokens or max_tokens, "messages": turns}
    if system:
        fields["system"] = system
    if request.tools:
        fields["tools"] = [_tool(tool, model) for tool in request.tools]
    # 1 is the API's own default for both, and some models refuse to be told both
    if sampling.temperature != 1.0:
        fields["temperature"] = sampling.temperature
    if sampling.top_p != 1.0:
        fields["top_p"] = sampling.top_p
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.stop:
        fields["stop_sequences"] = list(sampling.stop)
    if sampling.json_schema is not None:
        fields["output_config"] = {"format": {"type": "json_schema", "schema": sampling.json_schema}}
    return fields


def _turns(messages: Sequence[Message], model: str, thoughts: Thoughts) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and the turns: neighbours of one role are one turn (all results of parallel calls)."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            if turns:
                raise UnsupportedError(f'"{model}" takes system messages only before all others')
            system.append(message.content)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, thoughts)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return "\n\n".join(system), turns


def _blocks(message: Message, thoughts: Thoughts) -> list[dict[str, Any]]:
    text = [{"type": "text", "text": message.content}] if message.content.strip() else []  # empty text is refused
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content}]
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        for call in message.tool_calls
    ]
    thinking = thoughts.before(message.tool_calls[0].id) if message.tool_calls else []
    return [*thinking, *text, *calls]


def _input(arguments: str) -> dict[str, Any]:
    """The API takes objects only: what is none goes as the text that the model wrote."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"malformed_arguments": arguments}


def _tool(tool: dict[str, Any], model: str) -> dict[str, Any]:
    """From an OpenAI function schema."""
    function = tool.get("function")
    if not isinstance(function, dict) or not function.get("name"):
        raise UnsupportedError(f'"{model}" takes tools of type "function" with a name only')
    fields = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    return fields | ({"description": function["description"]} if function.get("description") else {})


class AnthropicReader:
    """Puts together what the Messages API sends."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._stop: str | None = None
        self._usage: dict[str, Any] = {}
        self.model: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the reply's end was seen."""
        return self._stop is not None

    def whole(self, data: dict[str, Any]) -> Delta | None:
        """Take a reply that came in one object."""
        content = data.get("content")
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            raise TryFailedError("bad_response", "the reply has no list of content blocks", status=200)
        self._about(data)
        self._blocks = dict(enumerate(content))
        self._stop = str(data.get("stop_reason") or "end_turn")
        return Delta(self._text("text"), self._text("thinking"))

    def piece(self, data: dict[str, Any]) -> Delta | None:
        """Take one event of a stream."""
        match data.get("type"):
            case "message_start":
                self._about(_object(data, "message"))
            case "content_block_start":
                self._blocks[_index(data)] = dict(_object(data, "content_block"))
            case "content_block_delta":
                return self._add(_index(data), _object(data, "delta"))
            case "message_delta":
                self._about({"usage": data.get("usage")})  # its counts are cumulative: they replace the first ones
                if stop := _object(data, "delta").get("stop_reason"):
                    self._stop = str(stop)
        return None

    def _about(self, data: dict[str, Any]) -> None:
        if isinstance(data.get("model"), str):
            self.model = data["model"]
        if isinstance(data.get("usage"), dict):
            self._usage |= {name: value for name, value in data["usage"].items() if value is not None}

    def _add(self, index: int, delta: dict[str, Any]) -> Delta | None:
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        match delta.get("type"):
            case "text_delta":
                text = str(delta.get("text") or "")
                block.setdefault("parts", []).append(text)
                return Delta(text)
            case "thinking_delta":
                text = str(delta.get("thinking") or "")
                block.setdefault("parts", []).append(text)
                return Delta(reasoning=text)
            case "signature_delta":
                block["signature"] = delta.get("signature")
            case "input_json_delta":
                self._json.setdefault(index, []).append(str(delta.get("partial_json") or ""))
        return None

    def _text(self, kind: str) -> str:
        return "".join(_full(block, kind) for _, block in sorted(self._blocks.items()) if block.get("type") == kind)

    def message(self) -> Message:
        """The assistant's message; thinking is its reasoning."""
        calls: list[ToolCall] = []
        for index, block in sorted(self._blocks.items()):
            if block.get("type") == "tool_use":
                written = "".join(self._json.get(index, ()))
                arguments = written or json.dumps(block.get("input") or {}, ensure_ascii=False)
                calls.append(ToolCall(id=str(block.get("id")), name=str(block.get("name")), arguments=arguments))
        text, reasoning = self._text("text"), self._text("thinking")
        return Message(role="assistant", content=text, reasoning=reasoning or None, tool_calls=tuple(calls))

    def thinking(self) -> list[dict[str, Any]]:
        """The thinking blocks, as they must go back."""
        found = [block for _, block in sorted(self._blocks.items()) if block.get("type") in _THINKING]
        return [
            {"type": "thinking", "thinking": _full(block, "thinking"), "signature": block.get("signature")}
            if block["type"] == "thinking"
            else block
            for block in found
        ]

    def finish(self) -> Finish:
        """How the reply ended."""
        return FINISHES.get(self._stop or "end_turn", "stop")

    def tokens(self) -> int | None:
        """Input and output tokens, where the server reports them."""
        spent, notes = self.usage(None)
        return None if prices.NO_USAGE in notes else spent.tokens

    def usage(self, price: prices.Price | None) -> tuple[Usage, tuple[str, ...]]:
        """What the call took; the API reports fresh, cached and written input tokens apart."""
        fresh, output = count(self._usage, "input_tokens"), count(self._usage, "output_tokens")
        if fresh is None or output is None:
            return Usage(calls=1), (prices.NO_USAGE,)
        cached = count(self._usage, "cache_read_input_tokens") or 0
        written = count(self._usage, "cache_creation_input_tokens") or 0
        return prices.usage(
            price, input_tokens=fresh + cached + written, output_tokens=output, cached=cached, written=written
        )


def _full(block: dict[str, Any], kind: str) -> str:
    return str(block.get(kind) or "") + "".join(block.get("parts", ()))


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise TryFailedError("bad_response", f'a {data.get("type")} event without "{name}"', status=200)
    return value


def _index(data: dict[str, Any]) -> int:
    index = data.get("index")
    if not isinstance(index, int):
        raise TryFailedError("bad_response", f'a {data.get("type")} event without "index"', status=200)
    return index
