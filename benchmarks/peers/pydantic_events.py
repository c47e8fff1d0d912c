"""The usual way to standardise trajectories: one pydantic object for each event, one after the other, then dump.

usage: python benchmarks/peers/pydantic_events.py IN.jsonl OUT.jsonl

Reads OpenAI chat rows and writes ADP v1 trajectories with the standard library's json and one model a class, as the
converters published with the Agent Data Protocol paper do it (arXiv 2510.24702, code: one script for each data set).
It checks types only: no call ids, no account of what was left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel


class ApiAction(BaseModel):
    class_: Literal["api_action"] = "api_action"
    function: str
    kwargs: dict[str, Any]
    description: str | None = None


class MessageAction(BaseModel):
    class_: Literal["message_action"] = "message_action"
    content: str
    description: str | None = None


class TextObservation(BaseModel):
    class_: Literal["text_observation"] = "text_observation"
    content: str
    name: str | None = None
    source: Literal["user", "agent", "environment"]


class Trajectory(BaseModel):
    id: str
    content: list[ApiAction | MessageAction | TextObservation]
    details: dict[str, Any] = {}


def convert(row: dict[str, Any]) -> Trajectory:
    """One row as one trajectory."""
    content: list[ApiAction | MessageAction | TextObservation] = []
    for message in row["messages"]:
        role, text = message["role"], message.get("content") or ""
        if role != "assistant":
            source = "user" if role == "user" else "environment"
            content.append(TextObservation(content=text, name=message.get("name"), source=source))
            continue
        calls = message.get("tool_calls") or []
        for call in calls:
            function = call["function"]
            kwargs = json.loads(function["arguments"])
            content.append(ApiAction(function=function["name"], kwargs=kwargs, description=text))
        if not calls:
            content.append(MessageAction(content=text))
    return Trajectory(id=str(row["id"]), content=content)


def main() -> None:
    """Convert a file."""
    with Path(sys.argv[1]).open() as source, Path(sys.argv[2]).open("w") as target:
        for line in source:
            target.write(json.dumps(convert(json.loads(line)).model_dump()) + "\n")


if __name__ == "__main__":
    main()
