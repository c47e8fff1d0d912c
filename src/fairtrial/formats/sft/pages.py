"""Web pages as OpenHands v0.30 shows them to its agent (`BrowserOutputObservation.get_agent_obs_text` was read)."""

from __future__ import annotations

from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item

PAGE_CUT = "(the rest of this page is left out to keep the text short)"


def page_text(page: Item, focus: str | None, *, faithful: bool = False) -> str:
    """Address, focused element and accessibility tree of a page; `faithful`: an unknown address stays None."""
    url = page.get("url") or (None if faithful else _address(page["axtree"]))
    done = "" if page.get("is_error") else "[Action executed successfully.]\n"
    return (
        f"[Current URL: {url}]\n[Focused element bid: {focus}]\n\n{done}"
        "============== BEGIN accessibility tree ==============\n"
        f"{page['axtree']}\n"
        "============== END accessibility tree ==============\n"
    )


def shown(page: Item, notes: Notes) -> str:
    """The part of a page that an agent of text sees, its accessibility tree; the rest is left out.

    Raises RowError where there is none.
    """
    if page.get("axtree") is None:
        raise RowError("a page without accessibility tree: only a browser can make one of its HTML")
    if page.get("html"):
        notes.drop("HTML of a page", page["html"])
    if page.get("image_observation"):
        notes.drop("picture of a page", page["image_observation"]["content"])
    return page["axtree"]


def focused_bid(axtree: str) -> str | None:
    """The element that the page itself marks as focused."""
    if ", focused" not in axtree:
        return None
    found = None
    for line in axtree.split("\n"):
        if line.endswith(", focused") or ", focused, " in line:
            line = line.lstrip()
            if line.startswith("[") and "]" in line:
                found = line[1 : line.index("]")]
    return found


def _address(axtree: str) -> str | None:
    """The page's address where BrowserGym prints it on the root."""
    root = axtree.split("\n", 1)[0]
    start = root.find("url='")
    end = root.find("'", start + 5)
    return root[start + 5 : end] if root.startswith("RootWebArea") and 0 <= start < end else None
