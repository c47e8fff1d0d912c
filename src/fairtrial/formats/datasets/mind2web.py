"""Mind2Web: recorded web sessions, one page and one action a step (arXiv 2306.06070).

Rows of osunlp/Mind2Web: `{annotation_id, website, domain, subdomain, confirmed_task, action_reprs[], actions:
[{action_uid, raw_html, cleaned_html, operation{op, original_op, value}, pos_candidates[], neg_candidates[]}]}`. The
element of an action carries `data_pw_testid_buckeye="<action_uid>"`; it is named by its `backend_node_id`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from html import escape
from typing import Any

import orjson

from fairtrial.formats.datasets.recipe import Draft, Recipe
from fairtrial.formats.datasets.signatures import signatures
from fairtrial.formats.datasets.steps import repeated
from fairtrial.formats.format import RowError
from fairtrial.formats.items import web

_TOOLS = signatures(
    "select(xpath: str, value: str)",
    "click(xpath: str)",
    "type(xpath: str, value: str)",
    "goto(url: str)",
)
_OPERATIONS = frozenset({"click", "type", "select"})
_MARK = "data_pw_testid_buckeye"
_ATTRIBUTE = re.compile(r"""\s([\w:-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_TAG_END = re.compile(r"""(?:"[^"]*"|'[^']*'|[^'">])*>""")
_FRAME = re.compile(r"<(/?)iframe(?=[\s/>])", re.IGNORECASE)


def _likes(value: Any) -> int:
    if not {"annotation_id", "confirmed_task", "actions", "website"} <= value.keys():
        return 0
    return 97 if value["actions"] and "action_uid" in value["actions"][0] else 0


def framed(page: str) -> str:
    """The page with what stands inside an iframe without a source moved to its `srcdoc`, so that a browser shows it."""
    stack: list[re.Match[str]] = []
    pairs: dict[int, tuple[int, int]] = {}
    for tag in _FRAME.finditer(page):
        if not tag[1]:
            stack.append(tag)
        elif stack:
            opening = stack.pop()
            end = _TAG_END.match(page, opening.end())
            if end is not None and end.end() <= tag.start():
                pairs[opening.start()] = (end.end(), tag.start())
    return _moved(page, 0, len(page), pairs, sorted(pairs)) if pairs else page


def _moved(page: str, start: int, stop: int, pairs: dict[int, tuple[int, int]], openings: list[int]) -> str:
    """The part of the page from `start` to `stop`, its outermost frames' content moved."""
    parts: list[str] = []
    done = start
    for place in range(bisect_left(openings, start), bisect_left(openings, stop)):
        opening = openings[place]
        if opening < done:
            continue  # inside the one before
        inside, close = pairs[opening]
        names = {name.lower() for name, _ in _ATTRIBUTE.findall(page[opening:inside])}
        if inside < close and not names & {"src", "srcdoc"}:
            content = escape(_moved(page, inside, close, pairs, openings))
            parts += [page[done : inside - 1].removesuffix("/"), f' srcdoc="{content}">']
            done = close
    parts.append(page[done:stop])
    return "".join(parts)


def _node(page: str, uid: str) -> str | None:
    """The `backend_node_id` of the element that is marked as the action's."""
    for mark in (f'{_MARK}="{uid}"', f"{_MARK}='{uid}'"):
        at = page.find(mark)
        start = page.rfind("<", 0, at) if at >= 0 else -1
        while start >= 0:
            tag = _TAG_END.match(page, start + 1)
            if tag is not None and tag.end() > at:
                attributes = dict(_ATTRIBUTE.findall(tag[0]))
                if "backend_node_id" in attributes:
                    return attributes["backend_node_id"].strip("\"'")
            start = page.rfind("<", 0, start)
            if at - start > 20_000:
                break
    return None


def _target(action: Any, draft: Draft) -> str | None:
    node = _node(action["raw_html"], action["action_uid"])
    if node is None and not draft.faithful:
        for candidate in action.get("pos_candidates") or ():
            if isinstance(candidate, dict) and candidate.get("is_original_target"):
                return str(candidate["backend_node_id"])
    return node


def _build(value: Any, draft: Draft) -> None:
    site = f"https://www.{value['website']}.com"
    if draft.faithful:
        draft.notes.invent("instruction to open the site", f"Go to the website {site} and ")
        draft.saw(f"Go to the website {site} and {value['confirmed_task']}", "user")
        draft.called("goto", {"url": site})
        draft.content[-1]["synthetic"] = True
    else:
        draft.saw(value["confirmed_task"], "user")
    told = value.get("action_reprs") or []
    for number, action in enumerate(value["actions"]):
        operation = action["operation"]
        function = operation["op"].lower()
        if function not in _OPERATIONS:
            raise RowError(f"action {number} is a {operation['op'][:40]!r}; expected click, type or select")
        node = _target(action, draft)
        if node is None:
            raise RowError(f"action {number}: its element {action['action_uid']} is not in the page")
        html = framed(action["raw_html"])
        if html != action["raw_html"]:
            draft.notes.rewrite("frames as srcdoc", action["raw_html"])
        draft.content.append(web(html=html))
        kwargs = {"xpath": f"//*[@backend_node_id='{node}']"}
        if operation["value"] or (function != "click" and not draft.faithful):
            kwargs["value"] = operation["value"]
        draft.called(function, kwargs)
        if not draft.faithful:
            kept = {"action_uid": action["action_uid"], "original_op": operation.get("original_op")}
            if number < len(told):
                kept["repr"] = told[number]
            draft.content[-1]["extra"] = {"mind2web": {name: field for name, field in kept.items() if field}}
        draft.notes.drop("cleaned copy of the page", str(action.get("cleaned_html") or ""))
        for field in ("pos_candidates", "neg_candidates"):
            draft.notes.drop("candidates for ranking", orjson.dumps(action.get(field) or []).decode())
    names = ("website", "domain", "subdomain")
    draft.extra["details"] = {name: value[name] for name in names if name in value}
    draft.extra["details"]["task_description"] = value["confirmed_task"]


MIND2WEB = Recipe(
    name="mind2web",
    title="Mind2Web (osunlp/Mind2Web)",
    likes=_likes,
    build=_build,
    id=lambda value, notes: repeated(str(value["annotation_id"]), notes),
    used=frozenset(
        {"annotation_id", "confirmed_task", "actions", "action_reprs", "website", "domain", "subdomain"},
    ),
    tools=_TOOLS,
).format()
