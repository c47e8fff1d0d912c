"""Pages as OpenHands 0.x stores them: address, screenshot, and the accessibility tree as the browser's node list."""

from __future__ import annotations

from typing import Any

from fairtrial.formats.items import Item, web

_SILENT = frozenset({"none", "generic", "InlineTextBox", "LineBreak"})
_MAX_DEPTH = 200


def page(extras: dict[str, Any]) -> Item:
    """A web observation of an event's extras."""
    tree = extras.get("axtree_object")
    shot = extras.get("screenshot")
    return web(
        url=extras.get("url"),
        axtree=flatten(tree) if tree else None,
        image_observation={"class_": "image_observation", "content": shot, "source": "environment"} if shot else None,
    )


def flatten(tree: Any) -> str:
    """The node list of Chrome's accessibility tree as indented lines: `[bid] role 'name', property=value`."""
    nodes = {node["nodeId"]: node for node in tree.get("nodes", ())}
    if not nodes:
        return ""
    lines: list[str] = []
    root = next(iter(nodes))
    seen: set[Any] = set()
    stack: list[tuple[Any, int]] = [(root, 0)]
    while stack:
        id, depth = stack.pop()
        node = nodes.get(id)
        if node is None or id in seen:
            continue
        seen.add(id)
        line = _line(node)
        if line is not None:
            lines.append("\t" * min(depth, _MAX_DEPTH) + line)
            depth += 1
        stack += [(child, depth) for child in reversed(node.get("childIds") or ())]
    return "\n".join(lines)


def _line(node: Any) -> str | None:
    role = (node.get("role") or {}).get("value", "")
    name = (node.get("name") or {}).get("value", "")
    bid = node.get("browsergym_id")
    if (role in _SILENT and not name and bid is None) or node.get("ignored"):
        return None
    shown = f"[{bid}] {role} {name!r}" if bid is not None else f"{role} {name!r}"
    for entry in node.get("properties") or ():
        value = (entry.get("value") or {}).get("value")
        if value is True:
            shown += f", {entry['name']}"
        elif value not in (None, False, ""):
            shown += f", {entry['name']}={value!r}"
    return shown
