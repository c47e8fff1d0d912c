"""ShareGPT rows, and the export for LLaMA-Factory.

Read: `{conversations: [{from, value}], system?, tools?}` in the spellings of the field. A `function_call` turn is
`{"name", "arguments"}` as JSON, a list of them for parallel calls, or a text followed by them in <tool_call> tags.
Calls in another syntax stay text. Loss: `weight` 0 of a turn (as axolotl reads it) is `loss` false, and written so.

LLaMA-Factory: read 0.9.5 (data/converter.py, formatter.py, parser.py). Its ShareGPT converter leaves out, with a
warning only, each sample whose turns do not alternate strictly (human or observation, then gpt or function_call), or
do not end with a response: such rows are refused here, with the reason. Results of parallel calls are one observation,
joined as its own converter for OpenAI messages joins them; users' messages in a row are one turn. It has no mask for
one turn: responses with `loss` false at the end are cut off, a row with one elsewhere is refused. Images are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.openai_chat import lift_reward, name_row, tell_row
from fairtrial.formats.text_turns import (
    Turn,
    call_json,
    call_of_object,
    learnable,
    response,
    split_thought,
    tools_of,
    turns_of_items,
    with_thought,
)

SHAREGPT_NAME = "sharegpt"
_SPELLINGS = {
    "system": ("system",),
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "assistant", "chatgpt", "model", "bot", "chatbot", "bing", "bard"),
    "call": ("function_call", "tool_call"),
    "tool": ("observation", "tool", "function", "tool_response", "function_response", "function-response", "ipython"),
}
_ROLES = {spelling: role for role, spellings in _SPELLINGS.items() for spelling in spellings}
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKERS = (_OPEN, _CLOSE, "<think>", "</think>")


def _likes(value: Any) -> int:
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        return 0
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
            return 0
    return 85 if turns[0]["from"] in _ROLES else 50


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not an object")
    fields = dict(value)
    turns = fields.pop("conversations")
    if not isinstance(turns, list):
        raise RowError("the conversations are no list")
    own: dict[str, Any] = {}
    content: list[Item] = []
    if isinstance(fields.get("system"), str) and fields["system"]:
        own["system"] = "column"
        content.append({"class_": "text_observation", "content": fields.pop("system"), "source": "system"})
    waiting: list[str] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            raise RowError(f"turn {number} has no `from`")
        made = _items(turn, number, waiting, notes)
        if made[0]["class_"] == "api_action":
            waiting = [item["function"] for item in made]
        content += made
    row: Row = {"id": "", "content": content}
    if (tools := tools_of(fields.get("tools"), notes)) is not None:
        row["tools"] = tools
        if not isinstance(fields.pop("tools"), str):
            own["tools"] = "list"
    lift_reward(fields, row)
    name_row(row, fields, value, own, SHAREGPT_NAME)
    if fields:
        own["fields"] = fields
    if own:
        row["extra"] = {SHAREGPT_NAME: own}
    return row


def _items(turn: dict[str, Any], number: int, waiting: list[str], notes: Notes) -> list[Item]:
    """The items of one turn; spellings and fields that are not the usual ones are kept in the first."""
    speaker, text = turn["from"], turn.get("value")
    role = _ROLES.get(speaker)
    if role is None:
        notes.flaw("unknown role", f"turn {number} is from {speaker[:40]!r}")
    if not isinstance(text, str):
        notes.flaw("content", f"the value of turn {number} is no text")
        text = "" if text is None else orjson.dumps(text).decode()
    extra = {key: inner for key, inner in turn.items() if key not in ("from", "value", "weight")}
    weight = turn.get("weight")
    if role == "call" and (made := _calls(text, notes)):
        usual = "function_call"
    elif role in ("call", "assistant"):
        if role == "call" and (_OPEN in text or text.lstrip()[:1] in ("{", "[")):
            notes.flaw("malformed call", f"turn {number} is no call: {text[:80]!r}")
        reasoning, rest = split_thought(text)
        made, usual = response(rest, reasoning, []), "gpt"
    else:
        source = role if role in ("system", "user") else "environment"
        seen: Item = {"class_": "text_observation", "content": text, "source": source}
        made = [seen]
        usual = "human" if role == "user" else "system" if role == "system" else "observation"
        if source == "environment" and waiting:
            seen["name"] = waiting.pop(0)
    if made[0]["class_"] != "text_observation" and type(weight) is int and weight in (0, 1):
        for item in made:
            item["loss"] = weight == 1
    elif "weight" in turn:
        extra["weight"] = weight
    if usual != speaker:
        extra["from"] = speaker
    if not isinstance(turn.get("value"), str):
        extra["value"] = turn.get("value")
    if extra:
        made[0]["extra"] = {SHAREGPT_NAME: extra}
    return made


def _calls(text: str, notes: Notes) -> list[Item]:
    """The calls of a function_call turn; none where it is malformed."""
    reasoning, text = split_thought(text)
    before, opened, calls = text.partition(_OPEN)
    if opened and calls.rstrip().endswith(_CLOSE):
        calls = calls.rstrip()[: -len(_CLOSE)]
    else:
        before, calls = "", text
    try:
        value = orjson.loads(calls)
    except ValueError:
        return []
    values = value if isinstance(value, list) else [value]
    made = [call_of_object(value, notes) for value in values]
    found = [call for call in made if call is not None]
    return response(before, reasoning, found) if found and len(found) == len(made) else []


def _value(turn: Turn, notes: Notes) -> tuple[str, str]:
    """`from` and `value` of a turn. Raises RowError where the text holds the marks of a call or a thought."""
    if turn.reasoning is not None and "</think>" in turn.reasoning:
        raise RowError("the reasoning contains </think>")
    if not turn.calls:
        usual = {"assistant": "gpt", "user": "human", "tool": "observation", "system": "system"}[turn.role]
        return usual, with_thought(turn.reasoning, turn.text)
    calls = call_json(turn.calls, notes, _MARKERS)
    if turn.text or turn.reasoning is not None:
        if any(marker in turn.text for marker in _MARKERS) or _OPEN in (turn.reasoning or ""):
            raise RowError("the text before a call contains <tool_call> or <think> marks")
        calls = f"{turn.text}{_OPEN}{calls}{_CLOSE}"
    return "function_call", with_thought(turn.reasoning, calls)


def _encode(row: Row, notes: Notes) -> Iterator[Any]:
    own = (row.get("extra") or {}).get(SHAREGPT_NAME) or {}
    tell_row(row, notes, SHAREGPT_NAME)
    if row.get("details"):
        notes.drop("details", orjson.dumps(row["details"]).decode())
    turns = list(turns_of_items(row.get("content") or [], notes, SHAREGPT_NAME))
    value: dict[str, Any] = {} if own.get("id") else {"id": row["id"]}
    if own.get("system") and turns and turns[0].role == "system":
        value["system"] = turns.pop(0).text
    written = value["conversations"] = []
    for turn in turns:
        speaker, text = _value(turn, notes)
        weight = {} if turn.loss is None else {"weight": int(turn.loss)}
        written.append({"from": speaker, "value": text, **weight, **turn.own})
    if tools := row.get("tools"):
        value["tools"] = tools if own.get("tools") == "list" else orjson.dumps(tools).decode()
    if row.get("reward") is not None:
        value["reward"] = row["reward"]
    yield value | (own.get("fields") or {})


SHAREGPT = Format(
    name=SHAREGPT_NAME,
    title="ShareGPT conversations (from / value)",
    likes=_likes,
    decode=_decode,
    encode=_encode,
)

LLAMA_FACTORY_NAME = "llama-factory"
_BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"


def _encode_llama_factory(row: Row, notes: Notes) -> Iterator[Any]:
    tell_row(row, notes, LLAMA_FACTORY_NAME)
    for key in ("details", "reward"):
        if row.get(key) not in (None, {}):
            notes.drop(key, orjson.dumps(row[key]).decode())
    turns = list(turns_of_items(row.get("content") or [], notes, LLAMA_FACTORY_NAME))
    turns = _alternating(learnable(turns, notes), notes)
    system = turns.pop(0).text if turns[0].role == "system" else ""
    for number, turn in enumerate(turns):
        if turn.role == "system":
            raise RowError("a system message inside the conversation: LLaMA-Factory takes one, at the start")
        if (turn.role == "assistant") != (number % 2 == 1):
            raise RowError(
                "LLaMA-Factory takes turns that alternate, a user's or a tool's first: "
                + ("two responses in a row" if number and turn.role == "assistant" else _odd_turn(turns, number))
            )
    conversations = []
    for turn in turns:
        if any("malformed" in call for call in turn.calls):
            raise RowError("a call with malformed arguments: LLaMA-Factory takes JSON only")
        speaker, text = _value(turn, notes)
        conversations.append({"from": speaker, "value": text})
    tools = [_described(tool) for tool in row.get("tools") or ()]
    yield {
        "id": row["id"],
        "conversations": conversations,
        "system": system,
        "tools": orjson.dumps(tools).decode() if tools else "",
    }


def _odd_turn(turns: list[Turn], number: int) -> str:
    if number == 0:
        return "the agent speaks first"
    return f"a {turns[number].role} turn follows a {turns[number - 1].role} turn without a response between"


def _alternating(turns: list[Turn], notes: Notes) -> list[Turn]:
    """Turns of the same role in a row as one: users' and operators' texts, results of parallel calls."""
    merged: list[Turn] = []
    for turn in turns:
        if not merged or turn.role == "assistant" or turn.role != merged[-1].role:
            merged.append(turn)
        else:
            notes.rewrite("turns in a row as one", turn.text)
            merged[-1].text += (_BETWEEN_RESULTS if turn.role == "tool" else "\n\n") + turn.text
    return merged


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool with the parameters that LLaMA-Factory's templates read."""
    function = tool.get("function", tool)
    parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _beside(name: str) -> dict[str, str]:
    """dataset_info.json; a `columns` or `tags` object must name every one, what it leaves out is unset."""
    entry = {
        "file_name": name,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "observation_tag": "observation",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    }
    info = orjson.dumps({Path(name).name.partition(".")[0]: entry}, option=orjson.OPT_INDENT_2)
    return {"dataset_info.json": info.decode() + "\n"}


LLAMA_FACTORY = Format(
    name=LLAMA_FACTORY_NAME,
    title="ShareGPT for LLaMA-Factory 0.9.5",
    likes=lambda value: 0,
    encode=_encode_llama_factory,
    kind="export",
    beside=_beside,
)
