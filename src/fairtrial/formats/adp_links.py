"""The rules that ADP 1.x makes for call ids: checked when reading, kept when writing.

A call directly followed by an observation has an id; ids are unique; each id has exactly one later observation.
"""

from __future__ import annotations

from itertools import count

from fairtrial.formats.format import Notes
from fairtrial.formats.items import Item, text

_CALLS = frozenset({"api_action", "code_action"})


def check_links(content: list[Item], notes: Notes) -> None:
    """Report where the rules are broken; nothing is changed."""
    calls: dict[str, int] = {}
    answered: set[str] = set()
    for place, item in enumerate(content):
        class_, id = item["class_"], item.get("call_id")
        if class_ in _CALLS:
            if id is None:
                if _is_observed(content, place):
                    notes.flaw(
                        "call without id", f"content[{place}] is followed by an observation and has no tool_call_id"
                    )
            elif id in calls:
                notes.flaw("duplicate call id", f"content[{place}] has the tool_call_id of content[{calls[id]}]: {id}")
            else:
                calls[id] = place
        elif id is not None:
            if class_ == "message_action":
                notes.flaw("call id on a message", f"content[{place}] is a message and has tool_call_id {id}")
            elif id not in calls:
                notes.flaw("result without call", f"content[{place}] answers no call before it: {id}")
            elif id in answered:
                notes.flaw("second result", f"content[{place}] is a second result of call {id}")
            answered.add(id)
    for id, place in calls.items():
        if id not in answered:
            notes.flaw("call without result", f"content[{place}]: no observation answers call {id}")


def link(content: list[Item], notes: Notes) -> list[Item]:
    """The items with call ids that keep the rules. Ids made here are the same for the same row; changes are told."""
    pairs = _pairs(content)
    results = {result: call for call, result in pairs.items()}
    taken = {item["call_id"] for item in content if "call_id" in item}
    fresh = (made for number in count(1) if (made := f"call_{number:06d}") not in taken)
    used: set[str] = set()
    ids: dict[int, str] = {}
    done: list[Item] = []
    for place, item in enumerate(content):
        old = item.get("call_id")
        new: str | None = None
        unanswered = item["class_"] in _CALLS and place not in pairs and _is_observed(content, place)
        if place in pairs or unanswered:
            id = old if old is not None and old not in used else next(fresh)
            used.add(id)
            new = ids[place] = id
        elif place in results:
            new = ids[results[place]]
        done.append(_with_id(item, new, notes) if new != old else item)
        if unanswered:
            done.append(text("", "environment", call_id=new))
            notes.invent("an empty result for a call without one that an observation follows", "")
    return done


def _is_observed(content: list[Item], place: int) -> bool:
    return place + 1 < len(content) and content[place + 1]["class_"].endswith("_observation")


def _with_id(item: Item, new: str | None, notes: Notes) -> Item:
    item = dict(item)
    old = item.pop("call_id", None)
    if new is not None:
        item["call_id"] = new
    if old is None:
        notes.invent("a call id", new or "")
    elif new is None:
        notes.drop("the id of a call without a result, or of a further result", old)
    else:
        notes.rewrite("a call id that is used twice", old)
    return item


def _pairs(content: list[Item]) -> dict[int, int]:
    """Place of a call -> place of its result: by id, else by order in the run of observations after the calls."""
    pairs: dict[int, int] = {}
    waiting: dict[str, list[int]] = {}
    for place, item in enumerate(content):
        id = item.get("call_id")
        if id is None:
            continue
        if item["class_"] in _CALLS:
            waiting.setdefault(id, []).append(place)
        elif item["class_"] != "message_action" and waiting.get(id):
            pairs[waiting[id].pop(0)] = place
    place = 0
    while place < len(content):
        start = place
        while place < len(content) and content[place]["class_"] in _CALLS:
            place += 1
        calls = [call for call in range(start, place) if "call_id" not in content[call]]
        start = place
        while place < len(content) and content[place]["class_"].endswith("_observation"):
            place += 1
        free = [seen for seen in range(start, place) if "call_id" not in content[seen]]
        if calls and free:
            tools = [seen for seen in free if content[seen].get("source") not in ("user", "system")] or free[:1]
            several = min(len(calls), len(tools))
            pairs |= dict(zip(calls[-several:], tools, strict=False))
        place += place == start and not calls and not free
    return pairs
