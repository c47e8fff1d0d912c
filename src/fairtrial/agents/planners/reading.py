"""What all dialects share: the answer's tag, from what was found to a checked move, the tools in the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtrial.agents.context.tags import Element, elements, without
from fairtrial.agents.planners.calls import Call, Style, untagged
from fairtrial.agents.planners.checks import check, check_call
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template, refs
from fairtrial.agents.planners.planner import Move, RejectedTurn
from fairtrial.core.errors import did_you_mean

Tools = Sequence[Mapping[str, Any]]
"""OpenAI function schemas."""
_OPEN = re.compile(r"<([A-Za-z][\w-]*)(?:\s[^<>]*)?>")
ANSWER_RULE = "When you know the answer, call nothing and write <answer>the answer</answer>."


@dataclass(frozen=True, slots=True)
class Found:
    """The nodes of a text and the text that they were read from."""

    nodes: tuple[Node, ...]
    written: str


def numbered(pieces: Iterable[tuple[Node, int, int]], text: str) -> Found | None:
    """The nodes of lines that are numbered, each with where in the text it stands. Raises RejectedTurn."""
    placed = list(pieces)
    nodes = tuple(node for node, _, _ in placed)
    _no_forward(nodes)
    return Found(nodes, text[placed[0][1] : placed[-1][2]]) if placed else None


def answered(text: str) -> tuple[Element | None, str]:
    """The last `<answer>` (GAP and AgentFold read the last), and the text without any."""
    answers = [element for element in elements(text) if element.tag == "answer"]
    return (answers[-1] if answers else None), without(text, answers)


def settled(text: str, found: Found | None, answer: Element | None, tools: Tools, limit: int, form: str) -> Move:
    """The checked move of a text. Raises RejectedTurn where there is none, two, or one that cannot be run.

    `form` says how to write a call, for the message to a model that wrote none.
    """
    if found is not None and answer is not None:
        raise RejectedTurn(
            "two-moves", "the turn calls tools and gives an answer; do one of both (answer once the results are there)"
        )
    if found is not None:
        plan = Plan(found.nodes)
        check(plan, tools, limit=limit)
        return Move(plan=plan, action=found.written.strip())
    if answer is not None:
        if not answer.inner.strip():
            raise RejectedTurn("empty-answer", "the answer is empty: write it between <answer> and </answer>")
        return Move(answer=answer.inner.strip(), action=text[answer.start : answer.end])
    if "<answer>" in text:
        raise RejectedTurn("malformed", "<answer> is not closed: end it with </answer>")
    raise RejectedTurn(
        "no-action", f"the turn calls no tool and gives no answer. To call: {form}. To answer: <answer>...</answer>"
    )


def plan_start(text: str, begins: re.Pattern[str], *, final: bool) -> int | None:
    """Where the plan begins: the first match that stands in no element but `<plan>`; None: nowhere (yet).

    What thinking, a policy's parts and other elements hold is not the plan's. Of an unfinished text (`final` False)
    nothing behind a tag that is still open is known to be the plan's.
    """
    foreign = [element for element in elements(text) if element.tag != "plan"]
    position, index = 0, 0
    while match := begins.search(text, position):
        start = match.start()
        while index < len(foreign) and foreign[index].end <= start:
            index += 1
        if index < len(foreign) and foreign[index].start < start:
            position = foreign[index].end
            continue
        if not final and open_tag(text[:start], foreign[:index]) is not None:
            return None
        return start
    return None


def open_tag(text: str, closed: Sequence[Element]) -> int | None:
    """Where the first tag that opens outside of the closed elements stands, `<plan>` and `<graph>` not counted."""
    index = 0
    for tag in _OPEN.finditer(text):
        while index < len(closed) and closed[index].end <= tag.start():
            index += 1
        if (index == len(closed) or tag.start() < closed[index].start) and tag[1] not in ("plan", "graph"):
            return tag.start()
    return None


def steps_prose(text: str, line: re.Pattern[str], start: int) -> int | None:
    """Where, before the first numbered call at `start`, the number before it stands without a call; None: nowhere."""
    first = line.match(text, start)
    before = list(line.finditer(text, 0, start))
    if first is None or not before or int(before[-1][1].lstrip("T")) != int(first[1].lstrip("T")) - 1:
        return None
    return before[-1].end()


def checked_so_far(nodes: Iterator[Node], tools: Tools, limit: int, *, forward: bool) -> tuple[Node, ...]:
    """Nodes of an unfinished text up to the first one that cannot be run; `forward`: references may point ahead."""
    known = {tool["function"]["name"]: tool for tool in tools}
    seen: dict[str, Node] = {}
    compiled: dict[Any, Any] = {}
    try:
        for node in nodes:
            referred = {ref.node for ref in refs(node.args)} | set(node.deps)
            check_call(node, known, compiled)
            if node.id in seen or node.id in referred or len(seen) == limit:
                break
            if not referred <= {*node.deps} or not (forward or referred <= seen.keys()):
                break
            seen[node.id] = node
    except RejectedTurn:
        pass
    return tuple(seen.values())


def bound(call: Call, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The call's arguments by name: those without one take the schema's names in order. Raises RejectedTurn."""
    if call.tool not in known:
        raise RejectedTurn("unknown-tool", f'there is no tool "{call.tool}"{did_you_mean(call.tool, known)}')
    if not call.positional:
        return call.named
    names = list((known[call.tool].get("parameters") or {}).get("properties", {}))
    if len(call.positional) > len(names):
        raise RejectedTurn("schema", f'"{call.tool}" takes {len(names)} arguments, not {len(call.positional)}')
    named = dict(zip(names, call.positional, strict=False))
    for name in named:
        if name in call.named:
            raise RejectedTurn("schema", f'"{call.tool}" is given the argument "{name}" twice')
    return named | call.named


def functions(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """The tools' functions (name, description, parameters) by name."""
    return {tool["function"]["name"]: tool["function"] for tool in tools}


def references(args: Any) -> tuple[str, ...]:
    """The nodes that arguments refer to, each once, in order."""
    return tuple(dict.fromkeys(ref.node for ref in refs(args)))


def _no_forward(nodes: Sequence[Node]) -> None:
    """Refuse a reference to a node that comes later."""
    places = {node.id: place for place, node in enumerate(nodes)}
    for place, node in enumerate(nodes):
        for dep in node.deps:
            if places.get(dep, -1) > place:
                raise RejectedTurn(
                    "forward-reference", f'node "{node.id}" refers to "{dep}", which comes later: put "{dep}" first'
                )


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None where it is none, or one that JSON does not know (NaN, half characters)."""
    try:
        value = json.loads(text, parse_constant=_refused, strict=False)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def json_text(value: Any) -> str:
    """JSON in which nothing looks like a tag. Raises ValueError for NaN and for references, which JSON has none of."""
    if next(refs(value), None) is not None:
        raise ValueError("this dialect has no references between calls")
    return untagged(json.dumps(value, ensure_ascii=False, allow_nan=False))


def answer_text(move: Move) -> str:
    """The move's answer in its tag. Raises ValueError for one that the tag cannot hold."""
    text = f"<answer>{move.answer}</answer>"
    element, _ = answered(text)
    if not move.answer or element is None or element.inner != move.answer.strip() or element.end != len(text):
        raise ValueError(f"this answer cannot be written between tags: {move.answer!r}")
    return text


def named_for(plan: Plan, style: Style, name: Callable[[int], str]) -> Plan:
    """The plan with ids as the dialect needs them: its own where they all fit, else `name(0)`, `name(1)` ..."""
    if all(style.id.fullmatch(node.id) for node in plan.nodes):
        return plan
    names = {node.id: name(index) for index, node in enumerate(plan.nodes)}

    def renamed(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(names.get(value.node, value.node), value.path)
        if isinstance(value, Template):
            return Template(tuple(renamed(part) for part in value.parts))
        if isinstance(value, Mapping):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [renamed(inner) for inner in value]
        return value

    return Plan(
        tuple(
            Node(names[node.id], node.tool, renamed(node.args), tuple(names[dep] for dep in node.deps), node.malformed)
            for node in plan.nodes
        )
    )


def tool_list(tools: Tools) -> str:
    """The tools for the system message, one line of JSON each."""
    lines = (json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return "You may call these tools:\n" + "\n".join(lines)


def graph_rules(tools: Tools, how: str, form: str) -> str:
    """The rules of a dialect whose calls may need each other."""
    if not tools:
        return ANSWER_RULE
    reader = (
        "\nA call's value is all that its tool returns, such as a page; where a short value is needed from it, "
        "put a call of read between."
    )
    return f"{tool_list(tools)}\n\n{how}{reader if 'read' in functions(tools) else ''}\n{form}\n\n{ANSWER_RULE}"


def example(tools: Tools, *, references: bool = True) -> Plan:
    """A plan of the offered tools for the rules: one call, and where references are allowed one that needs it."""
    offered = list(functions(tools).values())
    if not offered:
        return Plan()
    first = Node("s1", offered[0]["name"], _placeholders(offered[0]))
    if not references:
        return Plan((first,))
    last = offered[-1]
    args = _placeholders(last)
    texts = [key for key, value in args.items() if isinstance(value, str)]
    if not texts:
        return Plan((first,))
    args[texts[-1]] = Template((Ref("s1"),)) if len(texts) > 1 else Template(("... ", Ref("s1")))
    return Plan((first, Node("s2", last["name"], args, ("s1",))))


def _placeholders(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {}
    stand_ins = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}
    properties = parameters.get("properties", {})
    return {name: stand_ins.get(properties.get(name, {}).get("type"), "...") for name in parameters.get("required", ())}
