"""Anthropic content blocks <-> items. Shared by the request format and by Claude Code's session lines.

A response's blocks become one item a call, with the text before it as description and the thinking as reasoning. What
an item cannot say (signatures, citations, how text was cut into blocks, kinds unknown here) is kept in its `layout`, so
that the blocks are written again as they were. `ns` is the name of the format under whose `extra` that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from fairtrial.core.trajectory import Source
from fairtrial.formats.format import Notes
from fairtrial.formats.items import Item, arguments, image, message, text

_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_CALL_FIELDS = frozenset({"type", "id", "name", "input"})
_RESULT_FIELDS = frozenset({"type", "tool_use_id", "content", "is_error"})

_SHAPED = frozenset({"list", "rest", "block"})

Names = dict[str, str]
"""Call id -> name of the tool, of the calls seen so far."""


def kept(item: Mapping[str, Any], ns: str) -> dict[str, Any]:
    """What a format keeps of an item or a row; empty where it keeps nothing."""
    found = (item.get("extra") or {}).get(ns)
    return found if isinstance(found, dict) else {}


def keep(item: Item, ns: str, **fields: Any) -> None:
    """Adds fields to what a format keeps of an item or a row."""
    item.setdefault("extra", {}).setdefault(ns, {}).update(fields)


def _kind(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else None


def read_response(content: Any, ns: str, notes: Notes, names: Names) -> list[Item]:
    """A model's message as items: its calls, the later ones joined, and what it said after the last of them."""
    if isinstance(content, str):
        return [message(content, extra={ns: {"string": True}})]
    if not isinstance(content, list) or not content:
        if content:
            notes.flaw("content of another kind", f"the content of a response is neither text nor blocks: {content!r}")
        return [message("", extra={ns: {"content": content}})]
    items: list[Item] = []
    said = _Said(ns)
    for block in content:
        kind = _kind(block)
        if kind == "text" and isinstance(block.get("text"), str):
            said.add("text", block)
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            said.add("thinking", block)
        elif kind in _CALLS and isinstance(block.get("name"), str) and isinstance(block.get("id"), str):
            item = _call(block, said, notes)
            names[item["call_id"]] = item["function"]
            items.append(item)
            said = _Said(ns)
        elif kind is not None and kind.endswith("_tool_result") and isinstance(block.get("tool_use_id"), str):
            if said.layout:
                items.append(said.message())
                said = _Said(ns)
            items.append(_server_result(block, ns, names))
        else:
            if kind is None:
                notes.flaw("block without a type", f"a content block is of no kind: {str(block)[:80]!r}")
            said.layout.append({"block": block})
    if said.layout:
        items.append(said.message())
    for item in items[1:]:
        item["joined"] = True
    return items


class _Said:
    """What a model thought and said before a call, and how that was cut into blocks."""

    __slots__ = ("layout", "ns", "text", "thinking")

    def __init__(self, ns: str) -> None:
        self.ns, self.layout = ns, list[Any]()
        self.text, self.thinking = list[str](), list[str]()

    def add(self, kind: str, block: Mapping[str, Any]) -> None:
        (self.text if kind == "text" else self.thinking).append(block[kind])
        if len(block) == 2:
            self.layout.append(kind)
        else:
            self.layout.append({"is": kind, "rest": {k: v for k, v in block.items() if k != "type" and k != kind}})

    def onto(self, item: Item, usual: list[str]) -> Item:
        """Puts the reasoning and, where it is not the usual one, the layout on the item."""
        if self.thinking:
            item["reasoning"] = "\n\n".join(self.thinking)
        if len(self.text) > 1 or len(self.thinking) > 1:
            self._measure()
        if self.layout != usual:
            keep(item, self.ns, layout=self.layout)
        return item

    def _measure(self) -> None:
        """Notes how long each block was, where several became one text."""
        for kind, texts in (("text", self.text), ("thinking", self.thinking)):
            sizes = iter(texts if len(texts) > 1 else ())
            for number, part in enumerate(self.layout):
                entry = {"is": part} if isinstance(part, str) else part
                if entry.get("is") == kind and (one := next(sizes, None)) is not None:
                    self.layout[number] = {**entry, "size": len(one)}

    def message(self) -> Item:
        item: Item = {"class_": "message_action", "content": "".join(self.text)}
        return self.onto(item, ["thinking", "text"] if self.thinking else ["text"])


def _call(block: Mapping[str, Any], said: _Said, notes: Notes) -> Item:
    source = block.get("input")
    item: Item = {"class_": "api_action", "function": block["name"]}
    item |= {"kwargs": source} if isinstance(source, dict) else arguments(source, block["name"], notes)
    item["call_id"] = block["id"]
    if said.text:
        item["description"] = "".join(said.text)
    rest = {k: v for k, v in block.items() if k not in _CALL_FIELDS} if block.keys() - _CALL_FIELDS else {}
    if block["type"] != "tool_use":
        rest["type"] = block["type"]
    entry: dict[str, Any] = {"rest": rest} if rest else {}
    if not isinstance(source, dict):
        entry["input"] = [source] if "input" in block else []
    said.layout.append({"is": "call", **entry} if entry else "call")
    usual = [kind for kind, given in (("thinking", said.thinking), ("text", said.text)) if given]
    return said.onto(item, [*usual, "call"])


def _server_result(block: dict[str, Any], ns: str, names: Names) -> Item:
    """What a tool that the provider runs answered, inside the response itself."""
    call = block["tool_use_id"]
    return text(visible(block), "environment", names.get(call), call_id=call, extra={ns: {"block": block}})


def write_response(items: Iterable[Item], ns: str, notes: Notes) -> Any:
    """The content of one model message: the inverse of `read_response`. Calls carry their `call_id`."""
    items = list(items)
    first = kept(items[0], ns)
    if len(items) == 1 and items[0]["class_"] == "message_action" and not items[0].get("reasoning"):
        if "content" in first and items[0]["content"] == "":
            return first["content"]
        if first.get("string") and not items[0].get("description"):
            return items[0]["content"]
    blocks: list[Any] = []
    for item in items:
        if item["class_"].endswith("observation"):
            blocks.append(_literal(item, kept(item, ns), notes))
        else:
            blocks += _said_blocks(item, ns, notes)
    return blocks


def _said_blocks(item: Item, ns: str, notes: Notes) -> list[Any]:
    is_call = item["class_"] != "message_action"
    description, reasoning = item.get("description"), item.get("reasoning")
    words = description if is_call else item["content"]
    usual = [kind for kind, given in (("thinking", reasoning), ("text", words)) if given]
    layout = kept(item, ns).get("layout")
    if not (isinstance(layout, list) and _fits(layout, words, reasoning, is_call)):
        layout = [*usual, "call"] if is_call else (usual or ["text"])
        if is_call and description == "":
            notes.drop("an empty text before a call: blocks cannot be empty", "")
    blocks: list[Any] = []
    if not is_call and description:
        notes.rewrite("the thought stated before a message is written as text before it", description)
        blocks.append({"type": "text", "text": description})
    left = {"text": words or "", "thinking": reasoning or ""}
    for part in layout:
        entry: dict[str, Any] = {"is": part} if isinstance(part, str) else part
        kind = entry.get("is")
        if kind == "call":
            blocks.append(_call_block(item, entry, notes))
        elif kind in left:
            size = entry.get("size", len(left[kind]))
            blocks.append({"type": kind, kind: left[kind][:size], **entry.get("rest", {})})
            # blocks of thinking are joined by an empty line
            left[kind] = left[kind][size + (2 if kind == "thinking" else 0) :]
        else:
            blocks.append(entry["block"])
    return blocks


def _fits(layout: list[Any], words: str | None, reasoning: str | None, is_call: bool) -> bool:
    """Whether the text still is as long as the blocks that it came from (it may have been edited since)."""
    sizes: dict[str, list[int | None]] = {"text": [], "thinking": [], "call": []}
    for entry in layout:
        kind = entry if isinstance(entry, str) else entry.get("is")
        if kind in sizes:
            sizes[kind].append(None if isinstance(entry, str) else entry.get("size"))
    if (len(sizes["call"]) == 1) != is_call:
        return False
    for kind, given, gap in (("text", words, 0), ("thinking", reasoning, 2)):
        found = sizes[kind]
        if bool(given) and not found:
            return False
        if len(found) > 1 and sum(size or 0 for size in found) + gap * (len(found) - 1) != len(given or ""):
            return False
        if not found and given is not None and kind == "text" and is_call:
            return False
    return True


def _call_block(item: Item, entry: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    rest = entry.get("rest", {})
    if item["class_"] == "code_action":
        language = item["language"]
        notes.rewrite("code written as a tool call", item["content"])
        key = "command" if language in ("bash", "sh", "shell") else "code"
        return {"type": "tool_use", "id": item["call_id"], "name": language, "input": {key: item["content"]}}
    block = {"type": "tool_use", "id": item["call_id"], "name": item["function"], **rest}
    given = entry.get("input")
    if given is not None and (not item["kwargs"] or isinstance(given[0] if given else None, str)):
        if given:
            block["input"] = given[0]
    else:
        malformed = item.get("malformed")
        block["input"] = item["kwargs"] if malformed is None else malformed
    return block


def read_user(content: Any, ns: str, notes: Notes, names: Names, source: Source = "user") -> list[Item]:
    """A user turn as items: results of calls (by call id), text and images; the later ones joined."""
    if isinstance(content, str):
        return [{"class_": "text_observation", "content": content, "source": source}]
    if not isinstance(content, list) or not content:
        if content:
            notes.flaw("content of another kind", f"the content of a message is neither text nor blocks: {content!r}")
        return [text("", source, extra={ns: {"content": content}})]
    items: list[Item] = []
    last: str | None = None
    for block in content:
        is_result = isinstance(block, dict) and block.get("type") == "tool_result"
        if is_result and isinstance(block.get("tool_use_id"), str):
            new = _result(block, ns, notes, names)
            if new[0]["call_id"] == last:
                keep(new[0], ns, again=True)
            last = new[0]["call_id"]
        else:
            new, last = [_part(block, source, ns, notes)], None
        items += new
    if len(content) == 1 and "call_id" not in items[0] and items[0]["class_"] == "text_observation":
        keep(items[0], ns, list=True)
    for item in items[1:]:
        item["joined"] = True
    return items


def _part(block: Any, source: Source, ns: str, notes: Notes, **fields: Any) -> Item:
    """A block of text or an image; any other kind as the text in it, with the block kept whole."""
    kind = _kind(block)
    if kind == "text" and isinstance(block.get("text"), str):
        item = text(block["text"], source, **fields)
        if len(block) > 2:
            keep(item, ns, rest={k: v for k, v in block.items() if k not in ("type", "text")})
        return item
    if kind == "image" and (where := _image_address(block.get("source"))) is not None:
        fields.pop("name", None)
        item = image(where, source, **fields)
        if len(block) > 2:
            keep(item, ns, rest={k: v for k, v in block.items() if k not in ("type", "source")})
        return item
    if kind is None:
        notes.flaw("block without a type", f"a content block is of no kind: {str(block)[:80]!r}")
    name = fields.pop("name", None) or kind
    return text(visible(block), source, name, extra={ns: {"block": block}}, **fields)


def _image_address(source: Any) -> str | None:
    if isinstance(source, dict):
        if source.keys() == {"type", "media_type", "data"} and source["type"] == "base64":
            media, data = source["media_type"], source["data"]
            if isinstance(media, str) and isinstance(data, str) and ";" not in media and "," not in media:
                return f"data:{media};base64,{data}"
        if source.keys() == {"type", "url"} and source["type"] == "url" and isinstance(source["url"], str):
            return None if source["url"].startswith("data:") else source["url"]
    return None


def _result(block: dict[str, Any], ns: str, notes: Notes, names: Names) -> list[Item]:
    call, content, failed = block["tool_use_id"], block.get("content"), block.get("is_error")
    name = names.get(call)
    if name is None:
        notes.flaw("result without a call", f"a tool result answers {call}, which no earlier call has")
    about: dict[str, Any] = {}
    if isinstance(content, list) and content:
        items = [_part(part, "environment", ns, notes, name=name, call_id=call) for part in content]
        if len(items) == 1 and items[0]["class_"] == "text_observation":
            about["list"] = True
        for item in items[1:]:
            item["joined"] = True
    else:
        item: Item = {
            "class_": "text_observation",
            "content": content if isinstance(content, str) else "",
            "source": "environment",
        }
        if name is not None:
            item["name"] = name
        item["call_id"] = call
        items = [item]
        if not isinstance(content, str):
            about["content"] = [content] if "content" in block else []
    rest = {k: v for k, v in block.items() if k not in _RESULT_FIELDS}
    if isinstance(failed, bool):
        items[0]["is_error"] = failed
    elif "is_error" in block:
        rest["is_error"] = failed
    if rest:
        about["rest"] = rest
    if about:
        keep(items[0], ns, result=about)
    return items


def write_user(items: Iterable[Item], ns: str, notes: Notes) -> Any:
    """The content of one user turn: the inverse of `read_user`."""
    items = list(items)
    own = kept(items[0], ns)
    if len(items) == 1 and "call_id" not in items[0] and items[0]["class_"] == "text_observation":
        if "content" in own and items[0]["content"] == "":
            return own["content"]
        if not own.keys() & _SHAPED:
            return items[0]["content"]
    blocks: list[Any] = []
    at = 0
    while at < len(items):
        call, end = items[at].get("call_id"), at + 1
        if call is None:
            blocks += _part_blocks(items[at], ns, notes)
        else:
            while end < len(items) and items[end].get("call_id") == call and not kept(items[end], ns).get("again"):
                end += 1
            blocks.append(_result_block(items[at:end], ns, notes))
        at = end
    return blocks


def _result_block(items: list[Item], ns: str, notes: Notes) -> dict[str, Any]:
    first = items[0]
    about = kept(first, ns).get("result") or {}
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": first["call_id"]}
    plain = len(items) == 1 and first["class_"] == "text_observation" and not kept(first, ns).keys() & _SHAPED
    if plain and "content" in about and first["content"] == "":
        if about["content"]:
            block["content"] = about["content"][0]
    elif plain and not about.get("list"):
        block["content"] = first["content"]
    else:
        block["content"] = [part for item in items for part in _part_blocks(item, ns, notes)]
    if (failed := first.get("is_error")) is not None:
        block["is_error"] = failed
    block.update(about.get("rest", {}))
    return block


def _part_blocks(item: Item, ns: str, notes: Notes) -> list[Any]:
    own = kept(item, ns)
    if "block" in own:
        return [_literal(item, own, notes)]
    rest = own.get("rest", {})
    if item["class_"] == "image_observation":
        if item.get("annotations"):
            notes.drop("annotations of an image", orjson.dumps(item["annotations"]).decode())
        return [{"type": "image", "source": _image_source(item["content"]), **rest}]
    if item["class_"] == "web_observation":
        return _page_blocks(item, notes)
    return [{"type": "text", "text": item["content"], **rest}]


def _literal(item: Item, own: Mapping[str, Any], notes: Notes) -> Any:
    """The block that an item came from, unless its text was changed since."""
    if "block" in own:
        if visible(own["block"]) == item.get("content"):
            return own["block"]
        notes.drop("a block whose text was changed", visible(own["block"]))
    return {"type": "text", "text": item.get("content", "")}


def _page_blocks(item: Item, notes: Notes) -> list[Any]:
    words = item.get("axtree") or item.get("html") or ""
    address = item.get("url")
    if item.get("axtree") and item.get("html"):
        notes.drop("the HTML of a page whose tree is written", item["html"])
    notes.rewrite("a page written as text", words)
    blocks: list[Any] = [{"type": "text", "text": f"{address}\n{words}" if address else words}]
    if shot := item.get("image_observation"):
        blocks.append({"type": "image", "source": _image_source(shot["content"])})
    return blocks


def _image_source(address: str) -> dict[str, Any]:
    if address.startswith("data:") and ";base64," in address:
        media, _, data = address[5:].partition(";base64,")
        return {"type": "base64", "media_type": media, "data": data}
    return {"type": "url", "url": address}


def visible(block: Any) -> str:
    """The text that a block of another kind shows: its title, text and address, and those of the blocks in it."""
    found: list[str] = []
    _collect(block, found, 8)
    return "\n".join(found)


def _collect(value: Any, found: list[str], depth: int) -> None:
    if isinstance(value, list) and depth > 0:
        for part in value:
            _collect(part, found, depth - 1)
    elif isinstance(value, dict) and depth > 0:
        is_bytes = value.get("type") == "base64"
        for key in ("title", "text", "url", "data", "stdout", "stderr", "error_code", "source", "content"):
            inner = value.get(key)
            if isinstance(inner, str):
                if not (is_bytes and key == "data") and (key != "source" or "content" in value):
                    found.append(inner)
            elif inner is not None:
                _collect(inner, found, depth - 1)
