"""Mind2Web: recorded web sessions, one page and one action a step (arXiv 2306.06070).

Rows of osunlp/Mind2Web: `{annotation_id, website, domain, subdomain, confirmed_task, action_reprs[], actions:
[{action_uid, raw_html, cleaned_html, operation{op, original_op, value}, pos_candidates[], neg_candidates[]}]}`. The
element of an action carries `data_pw_testid_buckeye="<action_uid>"`; it is named by its `backend_node_id`.
"""

from __future__ import annotations

import re
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
    parts: list[str] = []
    done = 0
    opening = _FRAME.search(page)
    while opening is not None:
        tag = _TAG_END.match(page, opening.end())
        close = _closing(page, tag.end()) if tag and not opening[1] else None
        if tag is None or close is None:
            opening = _FRAME.search(page, opening.end())
            continue
        names = {name.lower() for name, _ in _ATTRIBUTE.findall(tag[0])}
        inside = page[tag.end() : close.start()]
        if inside and not names & {"src", "srcdoc"}:
            head = page[done : tag.end() - 1].removesuffix("/")
            parts += [head, f' srcdoc="{escape(framed(inside))}">']
            done = close.start()
        opening = _FRAME.search(page, close.end())
    parts.append(page[done:])
    return "".join(parts)


def _closing(page: str, at: int) -> re.Match[str] | None:
    """The closing tag of the iframe that is open at `at`."""
    depth = 1
    for tag in _FRAME.finditer(page, at):
        depth += -1 if tag[1] else 1
        if depth == 0:
            return tag
    return None


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
        draft.notes.drop("cleaned copy of the page", action.get("cleaned_html") or "")
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
