"""What every plan is checked for before anything of it runs, and the JSON schemas of arguments, compiled once.

Codes of rejection: "empty-plan", "too-many-nodes", "duplicate-id", "unknown-tool", "malformed", "unknown-reference",
"self-reference", "undeclared-reference", "cycle", "schema".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import fastjsonschema

from fairtrial.agents.planners.plan import Node, Plan, Template, refs
from fairtrial.agents.planners.planner import RejectedTurn
from fairtrial.agents.resolve import deeper
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.ids import canonical_json

Validator = Callable[[Mapping[str, Any]], None]
"""Returns for arguments that fit. Raises ArgumentError."""

_DEPTH = 65
"""Arguments may be nested so deep (the object of all arguments included); as in `calls`."""
_SHOWN = 8
"""Nodes of a cycle that a message names."""


class ArgumentError(ValueError):
    """Arguments that do not fit their tool's schema; the message is one line for the model."""


def validate(tool_schema: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Check complete arguments (no references left) against an OpenAI function schema.

    Raises ArgumentError, and UserError where the schema itself is none. Many calls of one tool: keep `validator`.
    """
    validator(tool_schema)(args)


def validator(tool_schema: Mapping[str, Any]) -> Validator:
    """The compiled check of an OpenAI function schema's parameters. Raises UserError for a schema that is none."""
    function = tool_schema["function"]
    return _compiled(function["name"], canonical_json(function.get("parameters") or {}))


def check(plan: Plan, tools: Sequence[Mapping[str, Any]], *, limit: int | None = None) -> None:
    """Refuse a plan that cannot be run as it stands.

    Args:
        plan: Complete, references not resolved: arguments are checked for what can be known of them now.
        tools: OpenAI function schemas of the tools that may be called.
        limit: Most nodes that a plan may have; None: no limit.

    Raises:
        RejectedTurn: With the first thing that is wrong, in the order of the plan.
        UserError: A tool's schema is no JSON schema.
    """
    if not plan.nodes:
        raise RejectedTurn("empty-plan", "the plan has no node: call at least one tool, or give the answer")
    if limit is not None and len(plan.nodes) > limit:
        raise RejectedTurn(
            "too-many-nodes", f"the plan has {len(plan.nodes)} nodes, at most {limit} are allowed: plan fewer at a time"
        )
    ids: set[str] = set()
    for node in plan.nodes:
        if not node.id:
            raise RejectedTurn("duplicate-id", "a node has no id: give each node its own")
        if node.id in ids:
            raise RejectedTurn("duplicate-id", f'two nodes have the id "{node.id}": give each node its own')
        ids.add(node.id)
    known = {tool["function"]["name"]: tool for tool in tools}
    checked: dict[tuple[str, tuple[tuple[str, bool], ...]], Validator] = {}
    for node in plan.nodes:
        check_call(node, known, checked)
        _check_references(node, ids)
    acyclic(plan)


def check_call(
    node: Node,
    known: Mapping[str, Mapping[str, Any]],
    checked: dict[tuple[str, tuple[tuple[str, bool], ...]], Validator],
) -> None:
    """Refuse a call of a tool that does not exist, and arguments that cannot fit. `checked` keeps compiled schemas.

    Raises RejectedTurn.
    """
    if node.tool not in known:
        raise RejectedTurn("unknown-tool", f'there is no tool "{node.tool}"{did_you_mean(node.tool, known)}')
    if node.malformed is not None:
        raise RejectedTurn(
            "malformed", f'the arguments of "{node.tool}" are no JSON object (got {_shortened(node.malformed)})'
        )
    if deeper(node.args, _DEPTH):
        raise RejectedTurn("malformed", f'node "{node.id}": its arguments are nested more than {_DEPTH} deep')
    unresolved = {key: value for key, value in node.args.items() if next(refs(value), None) is not None}
    args = node.args
    shape = tuple((key, isinstance(value, Template)) for key, value in unresolved.items())
    if unresolved:
        args = {**node.args, **{key: "" if isinstance(value, Template) else None for key, value in unresolved.items()}}
    if (node.tool, shape) not in checked:
        tool = known[node.tool]
        checked[node.tool, shape] = validator(_without(tool, dict(shape)) if shape else tool)
    try:
        checked[node.tool, shape](args)
    except ArgumentError as error:
        raise RejectedTurn("schema", f'node "{node.id}": {error}') from None


def _check_references(node: Node, ids: set[str]) -> None:
    """Refuse references to nothing and to the node itself, and such as are not among the node's dependencies."""
    referred = [ref.node for ref in refs(node.args)]
    for name in (*node.deps, *referred):
        if name == node.id:
            raise RejectedTurn("self-reference", f'node "{node.id}" refers to its own value')
        if name not in ids:
            raise RejectedTurn(
                "unknown-reference", f'node "{node.id}" refers to "{name}", which is no node{did_you_mean(name, ids)}'
            )
    if missing := set(referred) - set(node.deps):
        raise RejectedTurn(
            "undeclared-reference",
            f'node "{node.id}" uses "{sorted(missing)[0]}" in its arguments but does not declare it as a dependency',
        )


def acyclic(plan: Plan) -> None:
    """Refuse a plan in which nodes wait for each other; linear time, no recursion. Raises RejectedTurn."""
    waiting = {node.id: len(set(node.deps)) for node in plan.nodes}
    dependents: dict[str, list[str]] = {node.id: [] for node in plan.nodes}
    for node in plan.nodes:
        for dep in set(node.deps):
            dependents[dep].append(node.id)
    ready = [name for name, count in waiting.items() if count == 0]
    while ready:
        name = ready.pop()
        del waiting[name]
        for dependent in dependents[name]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    if not waiting:
        return
    deps = {node.id: node.deps for node in plan.nodes}
    path = [next(iter(waiting))]
    places = {path[0]: 0}
    while True:
        name = next(dep for dep in deps[path[-1]] if dep in waiting)
        if name in places:
            break
        places[name] = len(path)
        path.append(name)
    loop = path[places[name] :]
    shown = " -> ".join([*loop[:_SHOWN], *(["..."] if len(loop) > _SHOWN else []), loop[0]])
    raise RejectedTurn("cycle", f"these nodes wait for each other, so none can start: {shown}")


@lru_cache(maxsize=1024)
def _compiled(name: str, parameters: bytes) -> Validator:
    schema = json.loads(parameters)
    try:
        test = fastjsonschema.compile(
            _draft7(schema), handlers={"http": _no_fetch, "https": _no_fetch}, use_default=False
        )
    except (fastjsonschema.JsonSchemaDefinitionException, AttributeError, TypeError, KeyError) as error:
        raise UserError(f'tool "{name}": its parameters are no JSON schema: {error}') from None
    known = list(schema.get("properties", {})) if isinstance(schema, dict) else []

    def validated(args: Mapping[str, Any]) -> None:
        try:
            test(args)
        except fastjsonschema.JsonSchemaValueException as error:
            raise ArgumentError(_told(name, error, args, known)) from None

    return validated


def _told(name: str, error: fastjsonschema.JsonSchemaValueException, args: Mapping[str, Any], known: list[str]) -> str:
    """The error in the model's words: which argument, what is allowed, what it was."""
    if error.rule == "additionalProperties" and error.path == ["data"]:
        extra = next(key for key in args if key not in known)
        return f'"{name}" has no argument "{extra}"{did_you_mean(extra, known)}'
    if error.rule == "required" and error.path == ["data"]:
        missing = next(key for key in error.rule_definition if key not in args)
        return f'"{name}" needs the argument "{missing}" (given: {", ".join(args) or "none"})'
    message = error.message.removeprefix("data").removeprefix(".")
    return f'"{name}": {message if error.path[1:] else "the arguments" + message} (got {_shortened(repr(error.value))})'


def _without(tool: Mapping[str, Any], unresolved: Mapping[str, bool]) -> dict[str, Any]:
    """The tool's schema as far as it can be checked while some arguments are not known; True: known to be text."""
    function = tool["function"]
    parameters = function.get("parameters") or {}
    properties = dict(parameters.get("properties", {}))
    for key, text in unresolved.items():
        if (
            key in properties
            or "patternProperties" in parameters
            or parameters.get("additionalProperties") is not False
        ):
            kind = properties.get(key, {})
            properties[key] = {"type": kind["type"]} if text and isinstance(kind, dict) and "type" in kind else {}
    kept = {key: parameters[key] for key in ("type", "required", "$defs", "definitions") if key in parameters}
    if parameters.get("additionalProperties") is False and "patternProperties" not in parameters:
        kept["additionalProperties"] = False
    return {
        "type": "function",
        "function": {"name": function["name"], "parameters": {**kept, "properties": properties}},
    }


def _draft7(schema: Any) -> Any:
    """The schema with 2020-12's tuples as draft 7 writes them, which is what the compiler knows."""
    if isinstance(schema, list):
        return [_draft7(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _draft7(value) for key, value in schema.items() if key not in ("prefixItems", "$schema")}
    if isinstance(schema.get("prefixItems"), list):
        if "items" in moved:
            moved["additionalItems"] = moved["items"]
        moved["items"] = _draft7(schema["prefixItems"])
    return moved


def _no_fetch(address: str) -> Any:
    raise fastjsonschema.JsonSchemaDefinitionException(f"{address} would have to be fetched; put it under $defs")


def _shortened(text: str, width: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[:width] + "..."
