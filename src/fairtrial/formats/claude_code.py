"""Claude Code sessions: one JSONL file is one trajectory, with its sub-agents.

The format is internal to the program and changes with it; read against files of versions 1.0 to 2.1 (and the
`stream-json` output of the same). Lines that are no part of the conversation (snapshots, titles, queue operations,
abandoned branches, kinds of the future) are kept whole with their place, so that a session is written again exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.core.trajectory import Source
from fairtrial.formats import source
from fairtrial.formats.anthropic import model_call
from fairtrial.formats.anthropic_blocks import Names, keep, read_response, read_user
from fairtrial.formats.claude_lines import NS, encode
from fairtrial.formats.claude_thread import Line, counts, is_boundary, is_local_command, main_line
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError, Skip
from fairtrial.formats.items import ACTIONS, Item, text

_TAGS: tuple[tuple[str, Source, str], ...] = (
    ("<command-name>", "user", "command"),
    ("<command-message>", "user", "command"),
    ("<bash-input>", "user", "bash-input"),
    ("<local-command-caveat>", "system", "meta"),
    ("<local-command-stdout>", "environment", "local-command"),
    ("<local-command-stderr>", "environment", "local-command"),
    ("<bash-stdout>", "environment", "bash"),
    ("<bash-stderr>", "environment", "bash"),
    ("<task-notification>", "environment", "task-notification"),
)


def _likes(value: Any) -> int:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return 0
    if "sessionId" in value and ("parentUuid" in value or "isSidechain" in value):
        return 97
    if ("leafUuid" in value and "summary" in value) or ("snapshot" in value and "messageId" in value):
        return 96
    spoken = value["type"] in ("user", "assistant") and isinstance(value.get("message"), dict)
    if "sessionId" in value:
        return 93 if spoken else 86
    if "session_id" in value and (spoken or "uuid" in value):
        return 84
    return 82 if spoken and "uuid" in value else 0


def _gather(values: Iterator[Numbered]) -> Iterator[Numbered]:
    """A file's lines as one session; what cannot be read is told in its place and the rest goes on."""
    lines: list[list[Any]] = []
    session: dict[str, Any] = {"lines": lines}
    for item in values:
        if item.problem is not None:
            yield item
        elif item.line == 0:
            session.setdefault("companions", []).append(item.value)
        else:
            lines.append([item.line, item.value])
    if lines:
        yield Numbered(lines[0][0], session)


def _open(path: Path) -> Iterator[Numbered]:
    """A session file, then (as line 0) each file of a sub-agent that belongs to it."""
    owner = _owner(path)
    if owner is not None:
        yield Numbered(1, {"part of": owner.name})
        return
    yield from source.values(path)
    for companion in _companions(path):
        lines: list[list[Any]] = []
        for item in source.values(companion):
            if item.problem is not None:
                yield Numbered(item.line, problem=f"{companion.name}: {item.problem}", raw=item.raw)
            else:
                lines.append([item.line, item.value])
        yield Numbered(0, {"file": companion.name, "meta": _meta(companion), "lines": lines})


def _claims(path: Path) -> bool:
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    return _owner(path) is not None or any(True for _ in _companions(path))


def _companions(path: Path) -> Iterator[Path]:
    """Files of sub-agents: in `<session>/subagents/`, in older versions beside the session's file."""
    yield from sorted((path.with_suffix("") / "subagents").rglob("agent-*.jsonl"))
    if len(path.stem) == 36 and path.stem.count("-") == 4:  # a session's uuid
        for other in sorted(path.parent.glob("agent-*.jsonl")):
            if _first(other).get("sessionId") == path.stem:
                yield other


def _owner(path: Path) -> Path | None:
    """The session beside which an older version laid this sub-agent's file; None where it stands alone."""
    if not path.name.startswith("agent-"):
        return None
    first = _first(path)
    named = first.get("sessionId")
    if not isinstance(named, str) or not first.get("isSidechain") or "/" in named or "\0" in named:
        return None
    owner = path.with_name(f"{named}.jsonl")
    return owner if owner != path and owner.is_file() else None


def _first(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value = orjson.loads(file.readline(1 << 20))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _meta(companion: Path) -> Any:
    try:
        return orjson.loads(companion.with_suffix(".meta.json").read_bytes())
    except (OSError, ValueError):
        return None


@dataclass(slots=True)
class _Agent:
    """Lines of a sub-agent that no call is linked to yet."""

    lines: list[Line] = field(default_factory=list[Line])
    file: str | None = None
    meta: Any = None
    call: str | None = None
    """The id of the call that started it, where something says so."""

    @property
    def prompt(self) -> str | None:
        """What it was asked."""
        for line in self.lines:
            if line.value.get("type") == "user" and line.spoken:
                content = line.value["message"].get("content")
                if isinstance(content, list) and content and isinstance(content[0], dict):
                    content = content[0].get("text")
                return content if isinstance(content, str) else None
        return None


def _decode(value: Any, notes: Notes) -> Row | Skip:
    session: Any = {"lines": list(enumerate(value, 1))} if isinstance(value, list) else value
    if not isinstance(session, dict) or not isinstance(session.get("lines"), list):
        raise RowError("not the lines of a session")
    lines, strays = _lines(session["lines"])
    if len(lines) == 1 and set(lines[0].value) == {"part of"}:
        return Skip("a sub-agent's file, imported with its session")
    if not any(line.shown for line in lines):
        if any(_likes(line.value) for line in lines):
            return Skip("a session without a message")
        raise RowError("not the lines of a session")
    main = [line for line in lines if not _side(line)]
    agents: dict[str, _Agent] = {}
    if any(line.shown for line in main):
        agents = _sides([line for line in lines if _side(line)])
    else:
        main = lines
    for companion in session.get("companions", ()):
        own, others = _lines(companion["lines"])
        strays += others
        name = companion["file"].removesuffix(".jsonl").removeprefix("agent-")
        meta = companion.get("meta")
        call = meta.get("toolUseId") if isinstance(meta, dict) else None
        key = name if name not in agents else companion["file"]
        agents[key] = _Agent(own, companion["file"], meta, call if isinstance(call, str) else None)
    for number, stray in strays:
        notes.flaw("line of another kind", f"line {number} is no JSON object: {str(stray)[:80]!r}")
    session_id, made = _session_id(main)
    if not made and main is lines and _side(lines[0]):
        session_id = _agent_id(session_id, str(lines[0].value.get("agentId", "0")))
    row = _run(session_id, main, agents, session_id, notes)
    for name in list(agents):
        if name in agents:
            row.setdefault("subagents", []).append(_below(name, agents, session_id, notes))
    own_extra: dict[str, Any] = row["extra"][NS]
    own_extra["counts"] = counts(line.value for line in lines)
    own_extra["other"] += [[number, stray] for number, stray in strays]
    if made:
        own_extra["id"] = "made"
    return row


def _lines(pairs: list[Any]) -> tuple[list[Line], list[tuple[int, Any]]]:
    lines = [Line(number, value) for number, value in pairs if isinstance(value, dict)]
    return lines, [(number, value) for number, value in pairs if not isinstance(value, dict)]


def _side(line: Line) -> bool:
    return line.value.get("isSidechain") is True or isinstance(line.value.get("parent_tool_use_id"), str)


def _sides(lines: list[Line]) -> dict[str, _Agent]:
    """Side lines of a session's own file by sub-agent: by its id, else by the first line of its thread."""
    parents = {line.uuid: line for line in lines if line.uuid is not None}
    agents: dict[str, _Agent] = {}
    for line in lines:
        call = line.value.get("parent_tool_use_id")
        name = line.value.get("agentId") or call
        if not isinstance(name, str):
            root, seen = line, {id(line)}
            while (above := parents.get(str(root.value.get("parentUuid")))) is not None and id(above) not in seen:
                root = above
                seen.add(id(root))
            name = root.uuid or "0"
        agent = agents.setdefault(name, _Agent(call=call if isinstance(call, str) else None))
        agent.lines.append(line)
    return agents


def _session_id(lines: list[Line]) -> tuple[str, bool]:
    for line in reversed(lines):
        found = line.value.get("sessionId") or line.value.get("session_id")
        if isinstance(found, str):
            return found, False
    values = orjson.dumps([line.value for line in lines], option=orjson.OPT_SORT_KEYS)
    return f"{NS}-{digest(values)[:16]}", True


def _agent_id(session: str, name: str) -> str:
    return name if name.startswith(session) else f"{session}/agent-{name}"


def _below(name: str, agents: dict[str, _Agent], session: str, notes: Notes) -> Row:
    agent = agents.pop(name)
    row = _run(_agent_id(session, name), agent.lines, agents, session, notes)
    if agent.file is not None:
        row["extra"][NS]["file"] = agent.file
        if agent.meta is not None:
            row["extra"][NS]["meta"] = agent.meta
    return row


def _run(name: str, lines: list[Line], agents: dict[str, _Agent], session: str, notes: Notes) -> Row:
    """One agent's lines as a trajectory, with the sub-agents that its results name."""
    shown = main_line(lines, notes)
    run = _Run(notes)
    at = 0
    while at < len(shown):
        end = at + 1
        message = shown[at].response
        if message is not None and shown[at].blocks:
            while end < len(shown) and shown[end].response == message and shown[end].blocks:
                end += 1
        run.take(shown[at:end])
        at = end
    run.compacted()
    held = {id(line) for line in shown}
    row: Row = {"id": name, "content": run.content}
    if run.calls:
        row["model_calls"] = run.calls
    row["extra"] = {NS: {"other": [[line.number, line.value] for line in lines if id(line) not in held]}}
    below = [(item, _below(name, agents, session, notes)) for name, item in run.links(agents).items() if name in agents]
    if below:
        row["subagents"] = [sub for _, sub in below]
        for item, sub in below:
            item["subagents"] = [*item.get("subagents", ()), sub["id"]]
    return row


class _Run:
    """Builds the items of one agent's run."""

    def __init__(self, notes: Notes) -> None:
        self.notes, self.names = notes, Names()
        self.content, self.calls = list[Item](), list[dict[str, Any]]()
        self.by_message: dict[str, int] = {}
        self.boundary: list[dict[str, Any]] = []
        self.named: dict[str, Item] = {}
        """Agent id -> the result that names it."""
        self.prompts: list[tuple[str, str]] = []
        """(prompt, call id) of the calls that have a prompt."""

    def take(self, lines: list[Line]) -> None:
        """A response (one line or several), or any other line of the conversation."""
        first = lines[0].value
        if is_boundary(first):
            self.compacted()
            self.boundary = [{"n": lines[0].number, "line": first}]
            return
        if is_local_command(first):
            items = [self.seen(text(first["content"], "environment", "local-command"))]
            entry = {"n": lines[0].number, "line": _without(first, "content"), "in": "content"}
            self.add(items, [entry], first)
        elif first["type"] == "assistant":
            self.response(lines)
        else:
            self.user(lines[0])

    def compacted(self) -> None:
        """A compaction whose summary is not in the file."""
        if self.boundary:
            item = text("", "system", "compaction")
            self.add([item], [], self.boundary[0]["line"])

    def add(self, items: list[Item], entries: list[dict[str, Any]], line: dict[str, Any]) -> None:
        keep(items[0], NS, lines=[*self.boundary, *entries])
        self.boundary = []
        if isinstance(line.get("timestamp"), str):
            items[0]["timestamp"] = line["timestamp"]
        self.content += items

    def response(self, lines: list[Line]) -> None:
        entries, content = [], []
        for line in lines:
            message = line.value["message"]
            entry = {"n": line.number, "line": _without(line.value, "message"), "message": _without(message, "content")}
            if line.blocks:
                entry["blocks"] = len(message["content"])
                content += message["content"]
            elif "content" in message:
                content = message["content"]
            else:
                content = None
                entry["bare"] = True
            entries.append(entry)
        self.compacted()
        items = read_response(content, NS, self.notes, self.names)
        last = lines[-1].value["message"]
        if lines[0].value.get("isApiErrorMessage") or last.get("model") == "<synthetic>":
            for item in items:
                item["loss"] = False  # the program wrote it in the model's place
        else:
            self.model_call(lines[0].response, last, items)
        for item in items:
            if item["class_"] == "api_action" and isinstance(item["kwargs"].get("prompt"), str):
                self.prompts.append((item["kwargs"]["prompt"], item["call_id"]))
        self.add(items, entries, lines[0].value)

    def model_call(self, name: str | None, message: dict[str, Any], items: list[Item]) -> None:
        index = self.by_message.get(name) if name is not None else None
        if index is None:
            call = model_call(message)
            if call is None:
                return
            index = len(self.calls)
            self.calls.append(call)
            if name is not None:
                self.by_message[name] = index
        for item in items:
            if item["class_"] in ACTIONS:
                item["model_call"] = index

    def user(self, line: Line) -> None:
        value, message = line.value, line.value["message"]
        summary = value.get("isCompactSummary") is True
        if not summary:
            self.compacted()
        items = read_user(message.get("content"), NS, self.notes, self.names)
        for item in items:
            if "call_id" in item or item["class_"] != "text_observation":
                continue
            if summary:
                item["source"], item["name"] = "system", "compaction"
            elif value.get("isMeta") is True:
                item["source"], item["name"] = "system", "meta"
            else:
                self.seen(item)
        entry = {"n": line.number, "line": _without(value, "message"), "message": _without(message, "content")}
        if "content" not in message:
            entry["bare"] = True
        self.add(items, [entry], value)
        told = value.get("toolUseResult")
        if isinstance(told, dict) and isinstance(told.get("agentId"), str) and "call_id" in items[0]:
            self.named.setdefault(told["agentId"], items[0])

    def seen(self, item: Item) -> Item:
        """Says who wrote a text that stands in the program's own tags."""
        if item["content"].startswith("<"):
            for tag, who, name in _TAGS:
                if item["content"].startswith(tag):
                    item["source"], item["name"] = who, name
                    break
        return item

    def links(self, agents: dict[str, _Agent]) -> dict[str, Item]:
        """Sub-agent -> the result that reports on it: by its id, by its call's id, by the prompt that it was given."""
        results: dict[str, Item] = {}
        for item in self.content:
            if "call_id" in item and item["class_"] not in ACTIONS:
                results.setdefault(item["call_id"], item)
        found = {name: item for name, item in self.named.items() if name in agents}
        taken = {item["call_id"] for item in found.values()}
        for name, agent in agents.items():
            if name not in found and agent.call is not None and agent.call in results:
                found[name] = results[agent.call]
                taken.add(agent.call)
        for name, agent in agents.items():
            if name in found or agent.call is not None or (prompt := agent.prompt) is None:
                continue
            for given, call in self.prompts:
                if given == prompt and call not in taken and call in results:
                    found[name] = results[call]
                    taken.add(call)
                    break
        return found


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    rest = value.copy()
    rest.pop(name, None)
    return rest


CLAUDE_CODE = Format(
    name=NS,
    title="Claude Code sessions (versions 1.0 to 2.1)",
    likes=_likes,
    decode=_decode,
    encode=encode,
    gather=_gather,
    open=_open,
    claims=_claims,
    sessions=True,
)
