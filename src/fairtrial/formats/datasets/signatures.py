"""The tools of a data set, written as Python signatures such as `go(location: str)`, as OpenAI function schemas."""

from __future__ import annotations

import ast
from typing import Any

Tool = dict[str, Any]

_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "List": "array",
    "dict": "object",
    "Dict": "object",
    "None": "null",
}


def signatures(*sources: str) -> tuple[Tool, ...]:
    """OpenAI function schemas from Python signatures such as `click(bid: str, button: Literal['left'] = 'left')`.

    A default of None makes a parameter optional and is not written. Raises ValueError where a type is unknown.
    """
    return tuple(_tool(source) for source in sources)


def by_name(tools: tuple[Tool, ...]) -> dict[str, Tool]:
    """The tools by their function's name."""
    return {tool["function"]["name"]: tool for tool in tools}


def _tool(signature: str) -> Tool:
    definition = ast.parse(f"def {signature}: ...").body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise ValueError(f"not a signature: {signature}")
    given = definition.args
    properties: dict[str, Any] = {}
    required: list[str] = []
    without = len(given.args) - len(given.defaults)
    for index, argument in enumerate(given.args):
        if argument.annotation is None:
            raise ValueError(f"{argument.arg} of {definition.name} has no type")
        schema = _schema(argument.annotation)
        if index < without:
            required.append(argument.arg)
        elif (default := ast.literal_eval(given.defaults[index - without])) is not None:
            schema["default"] = default
        properties[argument.arg] = schema
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    return {"type": "function", "function": {"name": definition.name, "parameters": parameters}}


def _schema(node: ast.expr) -> dict[str, Any]:
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return {"type": _TYPES[node.id]}
    if isinstance(node, ast.BinOp):
        return _union([node.left, node.right])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        outer = node.value.id
        if outer == "Literal":
            return {"type": "string", "enum": [ast.literal_eval(choice) for choice in inside]}
        if outer in ("Optional", "Union"):
            return _union(inside)
        if outer in ("list", "List"):
            return {"type": "array", "items": _schema(inside[0])}
        if outer in ("dict", "Dict"):
            return {"type": "object"}
    raise ValueError(f"unknown type: {ast.unparse(node)}")


def _union(choices: list[ast.expr]) -> dict[str, Any]:
    schemas = [schema for choice in choices if (schema := _schema(choice)) != {"type": "null"}]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


_MOUSE = "button: Literal['left', 'middle', 'right'] = 'left', modifiers: list[str] = None"
BROWSERGYM = signatures(
    "noop(wait_ms: float = 1000)",
    "scroll(delta_x: float, delta_y: float)",
    "fill(bid: str, value: str)",
    "select_option(bid: str, options: str | list[str])",
    f"click(bid: str, {_MOUSE})",
    f"dblclick(bid: str, {_MOUSE})",
    "hover(bid: str)",
    "press(bid: str, key_comb: str)",
    "focus(bid: str)",
    "clear(bid: str)",
    "drag_and_drop(from_bid: str, to_bid: str)",
    "upload_file(bid: str, file: str | list[str])",
    "go_back()",
    "go_forward()",
    "goto(url: str)",
)
"""BrowserGym's actions on elements by id, which several data sets use."""
