"""A trace's model calls, tool spans and agent spans -> one row. Shared by every source that records spans.

Chains become items, tool spans fill what no prompt shows, nested agents and side conversations become sub-agents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from fairtrial.formats import items
from fairtrial.formats.chat_messages import items_of_messages
from fairtrial.formats.format import Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.prompt_chain import Chain, ContextEdit, LlmCall, Message, chains

Group = list[Item]
"""The items of one message."""


@dataclass(slots=True)
class ToolSpan:
    """One execution of a tool."""

    id: str
    name: str | None
    call_id: str | None = None
    arguments: Any = None
    result: Any = None
    """None where the span does not say what came back."""
    is_error: bool = False
    began: Any = None
    timestamp: str | None = None
    scope: str | None = None
    told: bool = False
    """Set where the row shows this very result: the source need not keep it again."""


@dataclass(slots=True)
class AgentSpan:
    """A span around an agent's run; every tool span too, as a tool may run an agent."""

    id: str
    name: str | None
    around: set[str | None]
    """Agent spans around this one, None (the trace) among them."""
    parent: str | None = None
    """The nearest of them."""
    tool: str | None = None
    """The tool span that started the agent."""


@dataclass(slots=True)
class Trace:
    """Everything that a source read out of the spans of one trace or conversation."""

    id: str
    space: str
    """Name of the format: where `extra` keeps what has no place."""
    calls: list[LlmCall] = field(default_factory=list[LlmCall])
    tools: list[ToolSpan] = field(default_factory=list[ToolSpan])
    agents: dict[str, AgentSpan] = field(default_factory=dict[str, AgentSpan])


def row_of(trace: Trace, notes: Notes) -> Row:
    """The trajectory of a trace. Raises RowError where no span says anything."""
    nested = {agent.id: agent.around for agent in trace.agents.values()}
    found = chains(sorted(trace.calls, key=_order), {**nested})
    found = [chain for chain in found if chain.messages]
    if not found:
        if not trace.tools:
            raise RowError("no span says what was sent or answered (was the recording of content switched off?)")
        found = [Chain(None)]
    leaders = _leaders(found, trace.agents)
    parents = _parents(found, leaders, trace.agents)
    main = next(index for index, parent in enumerate(parents) if parent is None)
    tools = _tools_of(found, leaders, main, trace)
    built = [_Run(chain, trace.space, tools[index], notes) for index, chain in enumerate(found)]
    rows = [
        run.row(_run_id(trace, chain, index == main))
        for index, (run, chain) in enumerate(zip(built, found, strict=True))
    ]
    for index in reversed(range(len(found))):
        parent = parents[index]
        if parent is None:
            continue
        rows[parent].setdefault("subagents", []).insert(0, rows[index])
        _link(built, trace, found[index], rows[index]["id"])
        agent = trace.agents.get(found[index].scope or "")
        if agent is not None and agent.name:
            rows[index].setdefault("details", {})["agent"] = agent.name
    return rows[main]


def _order(call: LlmCall) -> tuple[bool, str, Any]:
    return call.began is None, type(call.began).__name__, 0 if call.began is None else call.began


def _size(chain: Chain) -> tuple[int, int]:
    return len(chain.calls), len(chain.messages)


def _leaders(found: list[Chain], agents: dict[str, AgentSpan]) -> dict[str | None, int]:
    """For each agent span (and the trace) its longest chain: the agent's own run."""
    leaders: dict[str | None, int] = {}
    for index, chain in enumerate(found):
        scope = chain.scope
        if scope not in leaders or _size(chain) > _size(found[leaders[scope]]):
            leaders[scope] = index
    return leaders


def _parents(found: list[Chain], leaders: dict[str | None, int], agents: dict[str, AgentSpan]) -> list[int | None]:
    """For each chain the one that it is a sub-agent of; None for the run itself."""
    outer: list[int] = []
    above: dict[int, int] = {}
    for scope, index in leaders.items():
        agent = agents.get(scope or "")
        while agent is not None and agent.parent is not None and agent.parent not in leaders:
            agent = agents.get(agent.parent)
        if agent is not None and agent.parent in leaders and agent.parent is not None:
            above[index] = leaders[agent.parent]
        else:
            outer.append(index)
    main = max(outer, key=lambda index: (*_size(found[index]), -index)) if outer else 0
    parents: list[int | None] = []
    for index, chain in enumerate(found):
        leader = leaders[chain.scope]
        parents.append(leader if index != leader else above.get(index, main))
    parents[main] = None
    return parents


def _tools_of(found: list[Chain], leaders: dict[str | None, int], main: int, trace: Trace) -> list[list[ToolSpan]]:
    """For each chain the tool spans that belong to it: by call id inside the agent, else those of its agent."""
    shares: list[list[ToolSpan]] = [[] for _ in found]
    asked: dict[tuple[str | None, str], int] = {}
    for index, chain in enumerate(found):
        for message in chain.messages:
            for call in message.get("tool_calls") or ():
                if call.get("id"):
                    asked.setdefault((chain.scope, call["id"]), index)
    anywhere = {call_id: index for (_, call_id), index in reversed(asked.items())}
    for tool in sorted(trace.tools, key=lambda tool: (tool.began is None, str(type(tool.began)), tool.began or 0)):
        index = asked.get((tool.scope, tool.call_id or ""), anywhere.get(tool.call_id or ""))
        scope = tool.scope
        while index is None:
            index = leaders.get(scope) if scope is not None else leaders.get(None, main)
            agent = trace.agents.get(scope or "")
            scope = agent.parent if agent is not None else None
        shares[index].append(tool)
    return shares


def _run_id(trace: Trace, chain: Chain, main: bool) -> str:
    return trace.id if main else f"{trace.id}/{chain.calls[0].id}"


def _link(built: list[_Run], trace: Trace, chain: Chain, id: str) -> None:
    """Names a sub-agent on the result of the tool call that started it."""
    agent = trace.agents.get(chain.scope or "")
    if agent is None or agent.tool is None:
        return
    for run in built:
        item = run.shown.get(agent.tool)
        if item is not None:
            item["subagents"] = [id, *item.get("subagents", [])]


@dataclass(slots=True, eq=False)
class _Asked:
    """A call of a message, with the result that a prompt shows."""

    number: int
    """Of the message."""
    position: int
    """Among the message's calls."""
    call: Item
    answer: Item | None = None


def _asked(tool: ToolSpan, waiting: list[_Asked]) -> _Asked | None:
    """The call that this execution is of: by id; else by name and arguments, by name and result, by name."""
    if tool.call_id is not None:
        for asked in waiting:
            if asked.call.get("call_id") == tool.call_id:
                return asked
    alike = [
        asked
        for asked in waiting
        if asked.call["function"] == tool.name and (tool.call_id is None or asked.call.get("call_id") is None)
    ]
    if len(alike) > 1:
        given = _arguments(tool.arguments)
        result = None if tool.result is None else _result_text(tool.result).strip()
        for asked in alike:
            if given is not None and asked.call["kwargs"] == given:
                return asked
        for asked in alike:
            if result is not None and asked.answer is not None and str(asked.answer.get("content")).strip() == result:
                return asked
    return alike[0] if alike else None


class _Run:
    """Builds the items of one chain."""

    def __init__(self, chain: Chain, space: str, tools: list[ToolSpan], notes: Notes) -> None:
        self._chain, self._space, self._notes = chain, space, notes
        self.shown: dict[str, Item] = {}
        """Tool span -> the item that shows its result."""
        self._groups = _grouped(items_of_messages(chain.messages, notes, space))
        self._inserted: dict[int, list[Group]] = {}
        """Number of a message -> groups that stand before it."""
        self._model_calls = [call.model_call for call in chain.calls if call.model_call is not None]
        self._attribute()
        self._fill(tools)
        for message in chain.reworded:
            notes.rewrite("a later prompt shows this output in other words", _message_text(message))

    def row(self, id: str) -> Row:
        """The chain as a row."""
        content: list[Item] = []
        for number in range(len(self._groups) + 1):
            for edit in self._chain.edits.get(number, ()):
                content.append(self._marker(edit))
            for group in self._inserted.get(number, ()):
                content += group
            if number < len(self._groups):
                content += self._groups[number]
        row: Row = {"id": id, "content": content}
        if tools := _offered(self._chain.calls):
            row["tools"] = tools
        if self._model_calls:
            row["model_calls"] = self._model_calls
        return row

    def _marker(self, edit: ContextEdit) -> Item:
        told: dict[str, Any] = {"call": edit.call, "prompt": [list(span) for span in edit.prompt]}
        if edit.removed:
            told["removed"] = edit.removed
        if edit.replaced:
            told["replaced"] = {str(index): message for index, message in edit.replaced.items()}
        return items.text("", "system", "compaction", synthetic=True, extra={self._space: {"context_edit": told}})

    def _attribute(self) -> None:
        """Says of each output which model call made it, and when."""
        numbers: dict[int, int] = {}
        for index, call in enumerate(self._chain.calls):
            if call.model_call is not None:
                numbers[index] = len(numbers)
        for message, number in self._chain.spoke.items():
            first = self._groups[message][0]
            call = self._chain.calls[number]
            if items.is_action(first):
                if number in numbers:
                    first["model_call"] = numbers[number]
                if call.timestamp:
                    first["timestamp"] = call.timestamp

    def _fill(self, tools: list[ToolSpan]) -> None:
        """Puts results that no prompt shows behind their calls, executions without a call where time puts them."""
        answers: dict[str, Item] = {}
        waiting: list[_Asked] = []
        for number, group in enumerate(self._groups):
            calls = [item for item in group if item["class_"] == "api_action"]
            waiting += [_Asked(number, position, item) for position, item in enumerate(calls)]
            for item in group:
                if item.get("call_id") is not None and not items.is_action(item):
                    answers.setdefault(item["call_id"], item)
        for asked in waiting:
            call_id = asked.call.get("call_id")
            asked.answer = self._positional(asked) if call_id is None else answers.get(call_id)
        for tool in tools:
            asked = _asked(tool, waiting)
            if asked is None:
                if tool.call_id in answers:
                    self._confirm(tool, answers[tool.call_id])
                else:
                    self._orphan(tool)
                continue
            waiting.remove(asked)
            if asked.answer is not None:
                self._confirm(tool, asked.answer)
            elif tool.result is None and not tool.is_error:
                self.shown[tool.id] = asked.call
            else:
                group = [self._result(tool, asked.call.get("call_id"))]
                self._inserted.setdefault(self._behind(asked.number), []).append(group)

    def _positional(self, asked: _Asked) -> Item | None:
        """The result of a call that has no id: results follow in the order of the calls."""
        place = asked.number + 1 + asked.position
        if place >= self._behind(asked.number):
            return None
        first = self._groups[place][0]
        return first if first.get("call_id") is None else None

    def _confirm(self, tool: ToolSpan, item: Item) -> None:
        """The prompt shows this tool's result: what the agent saw stands; the span adds when, and whether it failed."""
        self.shown.setdefault(tool.id, item)
        tool.told = tool.result is None or _result_text(tool.result).strip() == str(item.get("content")).strip()
        if tool.timestamp:
            item.setdefault("timestamp", tool.timestamp)
        if tool.is_error:
            item["is_error"] = True

    def _behind(self, number: int) -> int:
        """The place behind a message and the results that follow it."""
        number += 1
        while number < len(self._groups) and self._groups[number][0].get("source") == "environment":
            number += 1
        return number

    def _orphan(self, tool: ToolSpan) -> None:
        """An execution that no message asks for: a call and its result, where its time puts it."""
        name = tool.name or "tool"
        call: Item = {"class_": "api_action", "function": name, **items.arguments(tool.arguments, name, self._notes)}
        if tool.call_id is not None:
            call["call_id"] = tool.call_id
        if tool.timestamp:
            call["timestamp"] = tool.timestamp
        call["extra"] = {self._space: {"span": tool.id}}
        group = [call]
        if tool.result is not None or tool.is_error:
            group.append(self._result(tool, tool.call_id))
        else:
            self.shown[tool.id] = call
        place = len(self._groups)
        for message, number in self._chain.spoke.items():
            began = self._chain.calls[number].began
            if type(began) is type(tool.began) and began is not None and began > tool.began:
                place = message
                break
        self._inserted.setdefault(place, []).append(group)

    def _result(self, tool: ToolSpan, call_id: str | None) -> Item:
        tool.told = True
        item = items.text(
            _result_text(tool.result), "environment", tool.name, call_id=call_id, timestamp=tool.timestamp
        )
        item["extra"] = {self._space: {"span": tool.id}}
        if tool.is_error:
            item["is_error"] = True
        self.shown[tool.id] = item
        return item


def _grouped(flat: list[Item]) -> list[Group]:
    """One list of items per message: only the first item of a message is not `joined`."""
    groups: list[Group] = []
    for item in flat:
        if item.get("joined") and groups:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _offered(calls: Iterable[LlmCall]) -> list[dict[str, Any]]:
    """All tools that any call offered, each name once."""
    tools: dict[Any, dict[str, Any]] = {}
    for call in calls:
        for tool in call.tools:
            function = tool.get("function")
            tools.setdefault(function.get("name") if isinstance(function, dict) else str(tool), tool)
    return list(tools.values())


def _arguments(source: Any) -> Any:
    """Arguments as a value, None where the span gives none."""
    if isinstance(source, str):
        try:
            return orjson.loads(source)
        except ValueError:
            return source
    return source


def _result_text(result: Any) -> str:
    if result is None:
        return ""
    return result if isinstance(result, str) else orjson.dumps(result).decode()


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else orjson.dumps(message).decode()


__all__ = ["AgentSpan", "LlmCall", "Message", "ToolSpan", "Trace", "row_of"]
