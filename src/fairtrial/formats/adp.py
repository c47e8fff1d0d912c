"""Agent Data Protocol, the flat generations: v1 (the paper's, arXiv 2510.24702, October 2025) and 1.x (spring 2026).

Read: the v1 schema at commit df5b5adc and the published samples, and the 1.x schema up to version 1.5.0. Both are one
list of typed items; 1.x adds a version, call ids, reasoning, rewards and what was offered. The vocabulary is the
room's own, so an item is copied with its nulls left out; which keys a file writes (older ones leave out `name`) is kept
under `extra` where it is not today's habit, so that writing gives the file back.

v1 keeps arguments of calls that were written as code as source fragments ('"149"'); see `printed_arguments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import orjson

from fairtrial.formats.adp_links import check_links, link
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.printed_arguments import print_arguments, read_arguments

_CALLS = frozenset({"api_action", "code_action"})
_LAYOUT: dict[str, tuple[str, ...]] = {
    "api_action": ("class_", "function", "kwargs", "description"),
    "code_action": ("class_", "language", "content", "description"),
    "message_action": ("class_", "content", "description"),
    "text_observation": ("class_", "content", "name", "source"),
    "web_observation": ("class_", "html", "axtree", "url", "image_observation", "viewport_size"),
    "image_observation": ("class_", "content", "annotations", "source"),
}
_ACTION_RENAMES = {"tool_call_id": "call_id", "reasoning_content": "reasoning", "reward": "reward"}
_OBSERVATION_RENAMES = {"tool_call_id": "call_id", "reward": "reward"}


@dataclass(frozen=True, slots=True)
class _Generation:
    name: str
    title: str
    root: tuple[str, ...]
    version: str | None
    renames: Mapping[str, Mapping[str, str]]
    """Class -> fields that this generation adds: their name -> the room's name."""
    layout: Mapping[str, frozenset[str]]
    fields: Mapping[str, frozenset[str]]
    """Class -> fields of the room that this generation can hold under its own or another name."""


def _generation(name: str, title: str, root: tuple[str, ...], version: str | None) -> _Generation:
    added = (_ACTION_RENAMES, _OBSERVATION_RENAMES) if version else ({}, {})
    renames = {class_: added[class_.endswith("_observation")] for class_ in _LAYOUT}
    layout = {class_: frozenset(keys) for class_, keys in _LAYOUT.items()}
    fields = {class_: layout[class_] | frozenset(renames[class_].values()) for class_ in _LAYOUT}
    return _Generation(name, title, root, version, renames, layout, fields)


_V1 = _generation("adp-v1", "Agent Data Protocol v1 (the paper's)", ("id", "content", "details"), None)
_V1X = _generation("adp", "Agent Data Protocol 1.x (to 1.5.0)", ("schema_version", "id", "content", "details"), "1.5.0")
_OFFERED = ("available_custom_tools", "available_apis")


# Reading


def _decoder(this: _Generation) -> Callable[[Any, Notes], Row]:
    def decode(value: Any, notes: Notes) -> Row:
        if not isinstance(value, dict):
            raise RowError("not a JSON object")
        content, layouts = _read_items(this, value["content"], notes)
        row: Row = {"id": value["id"], "content": content}
        own: dict[str, Any] = {"keys": layouts} if layouts else {}
        if details := value.get("details"):
            row["details"] = details
        fields = {key: value[key] for key in value if key not in this.root}
        if this.version:
            _read_offer(value, row, own, fields)
            check_links(content, notes)
            for key in fields.keys() - {*_OFFERED, "available_code_languages"}:
                notes.flaw("unknown field", f"ADP 1.x has no field {key}")
        else:
            read_arguments(content)
        if fields:
            own["fields"] = fields
        if "details" not in value or value["details"] is None:
            own["details"] = "absent" if "details" not in value else "null"
        if own:
            row["extra"] = {this.name: own}
        return row

    return decode


def _read_offer(value: dict[str, Any], row: Row, own: dict[str, Any], fields: dict[str, Any]) -> None:
    """Version, tools and languages offered. What writing gives back by itself leaves `fields`, the rest stays there."""
    version = value.get("schema_version")
    if version != _V1X.version:
        if "schema_version" in value and not isinstance(version, str):
            raise RowError("schema_version is no text")
        own["schema_version"] = version
    for key in _OFFERED:
        names = fields.get(key)
        if isinstance(names, list) and names and "tools" not in row and all(isinstance(name, str) for name in names):
            del fields[key]
            row["tools"] = [{"type": "function", "function": {"name": name}} for name in names]
            if key != _OFFERED[0]:
                own["offered_as"] = key
    used = _languages(row["content"])
    if used and fields.get("available_code_languages") == used:
        del fields["available_code_languages"]
    elif used:
        own["languages"] = "as given"


def _languages(content: list[Item]) -> list[str] | None:
    return sorted({item["language"] for item in content if item["class_"] == "code_action"}) or None


def _read_items(this: _Generation, source: Any, notes: Notes) -> tuple[list[Item], dict[str, list[str]]]:
    """The items, and for each class the keys that its first item has where they are not today's."""
    if not isinstance(source, list):
        raise RowError("content is no list")
    layouts: dict[str, list[str]] = {}
    expected: dict[str, Any] = {}
    content: list[Item] = []
    after_call = False
    for position, value in enumerate(source):
        class_ = value["class_"]
        if class_ not in this.layout:
            raise RowError(f"content[{position}]: class_ {class_!r} is none of {', '.join(this.layout)}")
        item = {key: field for key, field in value.items() if field is not None}
        keys: Any = value.keys()
        if keys != expected.get(class_):
            renames = this.renames[class_]
            keys = {key: None for key in keys if key not in renames or value[key] is None}.keys()
        if class_ not in expected:
            expected[class_] = keys
            if keys != this.layout[class_]:
                layouts[class_] = list(keys)
        own = {"keys": list(keys)} if keys != expected[class_] else {}
        _rename(this, item, own, notes)
        if own:
            item["extra"] = {this.name: own}
        if class_ == "api_action" and "kwargs" not in item:
            raise RowError(f"content[{position}]: a call without kwargs")
        if class_ == "text_observation":
            _read_name(item)
        elif class_ == "web_observation" and isinstance(image := item.get("image_observation"), dict):
            item["image_observation"] = _nested_image(this, image, notes)
        elif class_ in _CALLS and after_call:
            item["joined"] = True
        after_call = class_ in _CALLS
        content.append(item)
    return content, layouts


def _rename(this: _Generation, item: Item, own: dict[str, Any], notes: Notes) -> None:
    """Fields by the room's names; unknown ones go to `own`."""
    class_ = item["class_"]
    unknown = item.keys() - this.layout[class_]
    if not unknown:
        return
    renames = this.renames[class_]
    for key in sorted(unknown):
        field = item.pop(key)
        if key in renames:
            item[renames[key]] = field
        else:
            own.setdefault("fields", {})[key] = field
            if this.version:
                notes.flaw("unknown field", f"ADP 1.x has no field {key} in {class_}")


def _nested_image(this: _Generation, image: dict[str, Any], notes: Notes) -> Item:
    item = {key: field for key, field in image.items() if field is not None}
    own: dict[str, Any] = {} if image.keys() == this.layout["image_observation"] else {"keys": list(image)}
    item.setdefault("class_", "image_observation")
    _rename(this, item, own, notes)
    if own:
        item["extra"] = {this.name: own}
    return item


def _read_name(item: Item) -> None:
    """ADP has no system source: what the operator said is environment text named system, or system/NAME."""
    name = item.get("name")
    if name is None or item["source"] != "environment":
        return
    if name == "system" or (isinstance(name, str) and name.startswith("system/")):
        item["source"] = "system"
        del item["name"]
        if name != "system":
            item["name"] = name[7:]


# Writing


def _encoder(this: _Generation) -> Callable[[Row, Notes], Iterator[dict[str, Any]]]:
    def encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
        own = row.get("extra", {}).get(this.name, {})
        content = [_before_writing(this, item, notes) for item in row.get("content", ())]
        if this.version:
            content = link(content, notes)
            _tell_separate(content, notes)
            kwargs = {}
        else:
            content = _in_call_order(content, notes)
            _tell_separate(content, notes)
            kwargs = print_arguments(content)
        layouts = {class_: tuple(keys) for class_, keys in own.get("keys", {}).items()}
        value: dict[str, Any] = {"id": row["id"]}
        if this.version:
            value = {"schema_version": own.get("schema_version", this.version), **value}
            if value["schema_version"] is None:
                del value["schema_version"]
        value["content"] = [
            _write_item(this, item, layouts, kwargs.get(position), notes) for position, item in enumerate(content)
        ]
        if this.version:
            _write_offer(row, own, value, notes)
        value |= own.get("fields", {})
        if row.get("details") or own.get("details") != "absent":
            details = row.get("details", {})
            value["details"] = details if this.version else _text_details(details, notes)
            if not details and own.get("details") == "null":
                value["details"] = None
        _tell_row(this, row, notes)
        yield value

    return encode


def _before_writing(this: _Generation, item: Item, notes: Notes) -> Item:
    """A copy in this generation's words; tells what is put otherwise. Arguments that are no JSON are dropped."""
    item = dict(item)
    if (reasoning := item.get("reasoning")) is not None and this.version is None and "description" not in item:
        item["description"] = item.pop("reasoning")
        notes.rewrite("hidden reasoning is written as the thought before the action", reasoning)
    if (malformed := item.pop("malformed", None)) is not None:
        notes.drop("arguments that are no JSON object", malformed)
    if item.get("source") == "system":
        item["source"] = "environment"
        if item["class_"] == "text_observation":
            item["name"] = f"system/{item['name']}" if item.get("name") else "system"
    elif item["class_"] == "text_observation" and item["source"] == "environment" and "name" in item:
        name = item["name"]
        if name == "system" or name.startswith("system/"):
            notes.drop("a tool named system: the name marks the operator's text in ADP", item.pop("name"))
    return item


def _in_call_order(content: list[Item], notes: Notes) -> list[Item]:
    """Results in the order of their calls, which is all that pairs them in v1."""
    places = {
        item["call_id"]: place for place, item in enumerate(content) if item["class_"] in _CALLS and "call_id" in item
    }
    if not places:
        return content
    done: list[Item] = []
    for answers, run in groupby(content, lambda item: item["class_"] not in _CALLS and item.get("call_id") in places):
        group = list(run)
        ordered = sorted(group, key=lambda item: places[item["call_id"]]) if answers else group
        if ordered != group:
            notes.rewrite("results are put in the order of their calls", "")
        done += ordered
    return done


def _tell_separate(content: list[Item], notes: Notes) -> None:
    """Which items belong to one response is not written: neighbouring calls are read as one response, nothing else."""
    for before, item in pairwise(content):
        calls = item["class_"] in _CALLS and before["class_"] in _CALLS
        if calls != item.get("joined", False):
            notes.drop("which items are one message" if not calls else "that two calls are two responses", "")


def _write_item(
    this: _Generation,
    item: Item,
    layouts: Mapping[str, tuple[str, ...]],
    kwargs: dict[str, Any] | None,
    notes: Notes,
) -> dict[str, Any]:
    class_ = item["class_"]
    own = item["extra"].get(this.name, {}) if "extra" in item else {}
    keys = own.get("keys") or layouts.get(class_) or _LAYOUT[class_]
    renames = this.renames[class_]
    value: dict[str, Any] = {key: item.get(renames.get(key, key)) for key in keys}
    for key, field in renames.items():
        if field in item:
            value[key] = item[field]
    for key in _LAYOUT[class_]:
        if key in item and key not in value:
            value[key] = item[key]
    if kwargs is not None:
        value["kwargs"] = kwargs
    if "fields" in own:
        value |= own["fields"]
    if "class_" not in value:
        value["class_"] = class_
    if class_ == "web_observation" and (image := item.get("image_observation")) is not None:
        value["image_observation"] = _write_item(this, image, {}, None, notes)
        if "class_" not in image.get("extra", {}).get(this.name, {}).get("keys", ("class_",)):
            del value["image_observation"]["class_"]
    for field in item.keys() - this.fields[class_] - {"joined"}:
        if field != "extra":
            notes.drop(f"{field}: {this.title} has no place for it", str(item[field]))
        elif foreign := item["extra"].keys() - {this.name}:
            notes.drop(f"extra fields of {', '.join(sorted(foreign))}", "")
    return value


def _write_offer(row: Row, own: Mapping[str, Any], value: dict[str, Any], notes: Notes) -> None:
    if tools := row.get("tools"):
        named = [tool.get("function", tool) for tool in tools]
        names = [tool["name"] for tool in named if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
        used = {item["function"] for item in row["content"] if item["class_"] == "api_action"} - set(names)
        if used:
            notes.invent("a tool that was called is offered", " ".join(sorted(used)))
        value[own.get("offered_as", _OFFERED[0])] = names + sorted(used)
        if any(not isinstance(tool, dict) or len(tool) > 1 for tool in named):
            notes.drop("schemas of tools: ADP 1.x only names them", orjson.dumps(tools).decode())
    if "languages" not in own and (languages := _languages(row["content"])):
        value["available_code_languages"] = languages


def _text_details(details: dict[str, Any], notes: Notes) -> dict[str, str]:
    texts = {}
    for key, detail in details.items():
        if not isinstance(detail, str):
            detail = orjson.dumps(detail).decode()
            notes.rewrite("a detail that is no text is written as JSON text", detail)
        texts[key] = detail
    return texts


def _tell_row(this: _Generation, row: Row, notes: Notes) -> None:
    for field in ("model_calls", "reward", "subagents", *(() if this.version else ("tools",))):
        if field in row:
            notes.drop(f"{field}: {this.title} has no place for it", orjson.dumps(row[field]).decode())
    if foreign := row.get("extra", {}).keys() - {this.name}:
        notes.drop(f"extra fields of {', '.join(sorted(foreign))}", "")


# Recognising


def _items_of(value: Any) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get("content"), list) or "id" not in value:
        return []
    return [item for item in value["content"][:20] if isinstance(item, dict)]


def _likes_v1(value: Any) -> int:
    items = _items_of(value)
    if not items or any(not isinstance(c := item.get("class_"), str) or c not in _LAYOUT for item in items):
        return 0
    if "schema_version" in value or any("tool_call_id" in item for item in items):
        return 30
    return 95 if value.keys() <= {"id", "content", "details"} and "details" in value else 60


def _likes_1x(value: Any) -> int:
    items = _items_of(value)
    if not items or any(not isinstance(c := item.get("class_"), str) or c not in _LAYOUT for item in items):
        return 0
    version = value.get("schema_version")
    if isinstance(version, str) and version.startswith("1."):
        return 97
    return 90 if any("tool_call_id" in item or "reasoning_content" in item for item in items) else 20


ADP_V1 = Format(name=_V1.name, title=_V1.title, likes=_likes_v1, decode=_decoder(_V1), encode=_encoder(_V1))
ADP = Format(name=_V1X.name, title=_V1X.title, likes=_likes_1x, decode=_decoder(_V1X), encode=_encoder(_V1X))
