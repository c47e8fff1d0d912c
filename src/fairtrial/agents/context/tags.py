"""Tagged parts of a model's text: `<think>..</think>`, `<folding>..</folding>` and the like, one level deep.

A tag inside another element (a tool argument that speaks of `<think>`) is that element's text and nothing else.
Linear in the text, also where no tag is ever closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)((?:\s[^<>]*)?)>")
THINK = "think"


@dataclass(frozen=True, slots=True)
class Element:
    """`<tag>inner</tag>` at `start` to `end` of the text."""

    tag: str
    start: int
    end: int
    inner: str


def elements(text: str) -> tuple[Element, ...]:
    """The outermost elements, in order; an opening tag without its end is plain text.

    Thinking is the exception: cut off it reaches to the end of the text, and an end without a beginning (templates that
    open it in the prompt) closes what began with the text.
    """
    found: list[Element] = []
    unclosed: set[str] = set()
    position = 0
    while (match := _TAG.search(text, position)) is not None:
        closing, tag, attributes = match.groups()
        position = match.end()
        if closing:
            if tag == THINK and not any(element.tag == THINK for element in found):
                found = [Element(THINK, 0, match.end(), text[: match.start()])]
            continue
        if attributes.endswith("/") or tag in unclosed:
            continue
        end = text.find(f"</{tag}>", position)
        if end < 0:
            if tag == THINK:
                found.append(Element(THINK, match.start(), len(text), text[position:]))
                break
            unclosed.add(tag)
            continue
        found.append(Element(tag, match.start(), end + len(tag) + 3, text[position:end]))
        position = found[-1].end
    return tuple(found)


def without(text: str, parts: Iterable[Element]) -> str:
    """The text without these elements."""
    kept, position = [], 0
    for part in sorted(parts, key=lambda part: part.start):
        kept.append(text[position : part.start])
        position = part.end
    return "".join([*kept, text[position:]])


def apart(text: str) -> tuple[str, str]:
    """(text without thinking, thinking). Text that holds no thinking comes back as it is."""
    thoughts = [element for element in elements(text) if element.tag == THINK]
    if not thoughts:
        return text, ""
    return without(text, thoughts).strip(), "\n".join(element.inner.strip() for element in thoughts)
