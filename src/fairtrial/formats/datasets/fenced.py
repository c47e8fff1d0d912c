"""The fence rule of conversations about code: a fenced block with a language is code that is run."""

from __future__ import annotations

import re

from fairtrial.formats.call_syntax import fences
from fairtrial.formats.datasets.recipe import Draft

_FIRST = re.compile(r"```([A-Za-z0-9_+#.-]+)\n(.*?)\n?```", re.S)
_PROSE = frozenset({"text", "plaintext", "txt", "plain", "output"})
"""Words on a fence that name no language: such a block is part of the text."""


def fenced(text: str, draft: Draft) -> None:
    """Add an assistant turn: text, code, text ... as one response; the published form knows only the first block."""
    if draft.faithful:
        _first_only(text, draft)
        return
    end = 0
    for block in fences(text):
        start, stop = block.span
        if not block.word or block.word.lower() in _PROSE:
            continue
        opening, _, rest = text[start:stop].partition("\n")
        draft.markup(opening, rest[len(block.body) :])
        draft.ran(block.word.lower(), block.body, text[end:start])
        end = stop
    if end == 0:
        draft.said(text)
    elif text[end:].strip():
        draft.said(text[end:].strip())


def _first_only(text: str, draft: Draft) -> None:
    found = _FIRST.search(text)
    if found is None:
        draft.said(text)
        return
    draft.markup("```" + found[1], "```")
    draft.ran(found[1].lower(), found[2], text[: found.start()])
    draft.lost(text[found.end() :])
