"""Turns of a ShareGPT record (`{id, conversations: [{from, value}], system}`), as LLaMA-Factory reads it.

A trainer learns the `gpt` turns and wants turns to alternate, a human one first and a gpt one last; `alternate` makes
them so. Faithful records keep the published order instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.sft.printing import CALL

NO_RESULT = "(no result recorded)"


@dataclass(slots=True)
class Turn:
    """One turn; `call` names the tool that a gpt turn calls."""

    speaker: Literal["human", "gpt"]
    value: str
    call: str | None = None
    page: str | None = None
    """The accessibility tree inside `value`, where it shows a page."""


def join(*parts: str | None) -> str:
    """The parts that say something, a blank line between them."""
    return "\n\n".join(part for part in parts if part)


def check_thought(thought: str | None) -> None:
    """Raises RowError where a text holds call syntax: the harness would take it for the call."""
    if thought and CALL in thought:
        raise RowError("an agent's text contains call syntax, which the harness would run")


def image_text(item: Item, notes: Notes) -> str:
    """An image in words; the bytes of inline ones are left out."""
    content: str = item["content"]
    if content.startswith("data:"):
        notes.drop("inline image", content)
        content = "inline"
    seen = ", ".join(
        f"{note['text']} ({note['element_type']})" for note in item.get("annotations") or () if note["text"]
    )
    return f"[Image: {content}]\n" + (f"Elements detected: {seen}" if seen else "")


def alternate(turns: list[Turn], result_head: str, notes: Notes) -> list[Turn]:
    """Human and gpt turns by turns. `result_head` is how the harness introduces the result of `{tool}`."""
    start = 0
    while start < len(turns) and turns[start].speaker == "gpt":
        if turns[start].call:
            raise RowError("starts with a call: there is no user turn that asks for it")
        notes.drop("agent's text before the first user turn", turns[start].value)
        start += 1
    found: list[Turn] = []
    for turn in turns[start:]:
        last = found[-1] if found else None
        if last is None or last.speaker != turn.speaker:
            found.append(Turn(turn.speaker, turn.value, turn.call, turn.page))
        elif last.call is None:
            last.value, last.call, last.page = join(last.value, turn.value), turn.call, turn.page or last.page
        else:
            notes.invent("result of a call that has none", NO_RESULT)
            found.append(Turn("human", result_head.format(tool=last.call) + NO_RESULT))
            found.append(Turn(turn.speaker, turn.value, turn.call, turn.page))
    while found and found[-1].speaker == "human":
        notes.drop("seen after the last action", found.pop().value)
    if not found:
        raise RowError("the agent does nothing that could be trained on")
    return found


def record(id: str, turns: Iterable[Turn], system: str) -> dict[str, Any]:
    """One line of training data."""
    return {
        "id": id,
        "conversations": [{"from": turn.speaker, "value": turn.value} for turn in turns],
        "system": system,
    }


def dataset_info(file: str) -> Mapping[str, str]:
    """LLaMA-Factory's `dataset_info.json` for a file of these records."""
    name = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    columns = {"messages": "conversations", "system": "system"}
    entry = {name: {"file_name": file, "formatting": "sharegpt", "columns": columns}}
    return {"dataset_info.json": json.dumps(entry, indent=2) + "\n"}


def likes_nothing(value: Any) -> int:
    """Exports are written only: no file is taken for one."""
    return 0
