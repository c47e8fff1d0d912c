"""Whether the elements that an action names are in the page that the agent saw last (Agent Data Protocol, trap 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairtrial.formats.items import Item

_ELEMENTS = ("bid", "from_bid", "to_bid", "element_id")
_NODE = re.compile(r"@backend_node_id\s*=\s*['\"]([^'\"]+)['\"]")


@dataclass(slots=True)
class Page:
    """What the agent saw last, as text in which elements are looked for."""

    axtree: str = ""
    html: str = ""

    def has(self, bid: str) -> bool:
        """Whether an element of this id is in the page: `[bid]` in its tree, or an id attribute in its HTML."""
        if f"[{bid}]" in self.axtree:
            return True
        return bool(self.html) and any(
            f"{name}={quote}{bid}{quote}" in self.html for name in ("bid", "backend_node_id") for quote in ('"', "'")
        )

    def readable(self) -> bool:
        """Whether there is anything to look in (a page may be an image only)."""
        return bool(self.axtree or self.html)


def page_of(item: Item) -> Page:
    """The page of a web observation."""
    return Page(item.get("axtree") or "", item.get("html") or "")


def elements(kwargs: Mapping[str, Any]) -> Iterator[str]:
    """The elements that a call's arguments name."""
    for name in _ELEMENTS:
        value = kwargs.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            yield str(value).strip("\"'")
    xpath = kwargs.get("xpath")
    if isinstance(xpath, str):
        yield from _NODE.findall(xpath)


def ungrounded(kwargs: Mapping[str, Any], page: Page | None) -> tuple[int, list[str]]:
    """How many elements were looked for, and those that are not in the page."""
    if page is None or not page.readable():
        return 0, []
    named = list(elements(kwargs))
    return len(named), [bid for bid in named if not page.has(bid)]
