"""Payloads of a Codex rollout: what a message shows, what a call asks for, what a result says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from fairtrial.core.trajectory import Source
from fairtrial.formats.format import Notes
from fairtrial.formats.items import Item, arguments, image, text

_SHELLS = ("bash", "sh", "zsh")
_INJECTED = (
    ("<environment_context>", "environment_context"),
    ("<user_instructions>", "user_instructions"),
    ("# AGENTS.md instructions", "user_instructions"),
    ("<permissions instructions>", "permissions"),
    ("<collaboration_mode>", "collaboration_mode"),
    ("<turn_aborted>", "turn_aborted"),
    ("<skill>", "skill"),
    ("<skills_instructions>", "skill"),
    ("<subagent_notification>", "subagent_notification"),
)


@dataclass(slots=True)
class Piece:
    """One part of a message."""

    text: str | None
    source: Source = "user"
    name: str | None = None
    picture: str | None = None

    def item(self) -> Item:
        """The part as something that the agent saw."""
        if self.picture is not None:
            return image(self.picture, self.source)
        return text(self.text or "", self.source, self.name)


def message_items(payload: dict[str, Any], *, classify: bool = False) -> list[Piece]:
    """The parts of a message; at least one. `classify`: say who wrote what the program puts into the user's mouth."""
    role = payload.get("role")
    source: Source = "user" if role == "user" else "system"
    name = "developer" if role == "developer" else None
    content = payload.get("content")
    if isinstance(content, str):
        content = [{"text": content}]
    pieces: list[Piece] = []
    for part in content if isinstance(content, list) else ():
        words = part.get("text") if isinstance(part, dict) else None
        where = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(words, str):
            piece = Piece(words, source, name)
            if classify and source == "user":
                injected = next((name for mark, name in _INJECTED if words.lstrip().startswith(mark)), None)
                if injected is not None:
                    piece.source, piece.name = "system", injected
            pieces.append(piece)
        elif isinstance(where, str):
            pieces.append(Piece(None, source, picture=where))
        else:
            pieces.append(Piece(_json(part), source, name))
    return pieces or [Piece("", source, name)]


def reasoning_of(payload: dict[str, Any]) -> str:
    """What was thought, in full where the file has it, else its summary."""
    if isinstance(payload.get("text"), str):
        return payload["text"]
    for field in ("content", "summary"):
        parts = payload.get(field)
        found = [
            part["text"]
            for part in (parts if isinstance(parts, list) else ())
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        if found:
            return "\n\n".join(found)
    return ""


def is_call(kind: str) -> bool:
    """Whether a response item is a call of a tool."""
    return kind.endswith("_call")


def is_output(kind: str) -> bool:
    """Whether a response item is what a tool answered."""
    return kind.endswith("_output")


def call_of(payload: dict[str, Any]) -> tuple[str, Any, str] | None:
    """The tool, its arguments and the field that holds them; None where the item has none."""
    name = payload.get("name")
    if isinstance(name, str):
        for field in ("arguments", "input"):
            if isinstance(payload.get(field), str):
                return name, payload[field], field
        return None
    kind = payload["type"].removesuffix("_call")
    if isinstance(payload.get("action"), dict):
        return kind, payload["action"], "action"
    return None


def arguments_of(source: Any, name: str, hole: str, notes: Notes) -> tuple[Item, dict[str, Any]]:
    """`kwargs` (and `malformed`) of a call, and what is kept to write its arguments again as they were."""
    if hole == "input":
        return {"kwargs": {"input": source}}, {}
    about: dict[str, Any] = {}
    found = arguments(source, name, notes)
    kwargs = found["kwargs"]
    if hole == "arguments" and "malformed" not in found and orjson.dumps(kwargs).decode() != source:
        about["text"] = source
    for field in ("command", "cmd"):
        command = kwargs.get(field)
        if (
            isinstance(command, list)
            and len(command) == 3
            and all(isinstance(word, str) for word in command)
            and command[0].rsplit("/", 1)[-1] in _SHELLS
            and command[1] in ("-lc", "-c")
        ):
            notes.rewrite("a shell's argument list as the command that it runs", _json(command))
            found["kwargs"] = {**kwargs, field: command[2]}
            about["argv"] = [field, *command[:2]]
            break
    return found, about


def output_items(output: Any, name: str | None, call: str) -> list[Item]:
    """What a tool answered: text, or text and images."""
    if isinstance(output, list) and output:
        items: list[Item] = []
        for piece in message_items({"content": output}):
            if piece.picture is not None:
                items.append(image(piece.picture, "environment", call_id=call))
            else:
                items.append(text(piece.text or "", "environment", name, call_id=call))
        return items
    wrong: bool | None = None
    words = output if isinstance(output, str) else ""
    if isinstance(output, dict):
        inner = output.get("content")
        words = inner if isinstance(inner, str) else _json(output)
        if isinstance(output.get("success"), bool):
            wrong = not output["success"]
    elif not isinstance(output, str) and output is not None:
        words = _json(output)
    else:
        wrong = _exit(words)
    return [text(words, "environment", name, call_id=call) | ({} if wrong is None else {"is_error": wrong})]


def _exit(words: str) -> bool | None:
    """Whether the shell's report in a result names a failure; None where it reports none."""
    if words.startswith('{"output":'):
        try:
            code = orjson.loads(words)["metadata"]["exit_code"]
        except (ValueError, KeyError, TypeError):
            return None
        return code != 0 if isinstance(code, int) else None
    for mark in ("Exit code: ", "Process exited with code "):
        at = words.find(mark, 0, 400)
        if at == 0 or (at > 0 and words[at - 1] == "\n"):
            code = words[at + len(mark) :].split("\n", 1)[0].strip()
            return code != "0" if code.lstrip("-").isdigit() else None
    return None


def failed(event: dict[str, Any]) -> bool | None:
    """Whether an event says that the call it is about failed; None where it does not say."""
    kind = event.get("type")
    if kind == "exec_command_end":
        code = event.get("exit_code")
        return code != 0 if isinstance(code, int) and not isinstance(code, bool) else None
    if kind == "patch_apply_end":
        return not event["success"] if isinstance(event.get("success"), bool) else None
    if kind == "mcp_tool_call_end" and isinstance(event.get("result"), dict):
        result = event["result"]
        if "Err" in result:
            return True
        good = result.get("Ok")
        return bool(good.get("is_error", good.get("isError"))) if isinstance(good, dict) else None
    return None


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
