"""What an answer about a wiki is worth: exact match, items, rows of a table, and whether the evidence was opened."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fairtrial.tasks.worlds.answers import exact_match, f1, normalise
from fairtrial.tasks.worlds.world import Episode

_NUMBERING = re.compile(r"^\s*(?:\d+\s*[.):]|[-*])\s+")


def grade(episode: Episode, answer: str | None, visited: Sequence[str]) -> dict[str, float]:
    """em, f1 and provenance; of several questions also items, of a table rows (F1) too; all 0 to 1.

    em of several answers or of a table: all of it is right and nothing is added. f1 is word F1 of one answer, the share
    of right items of several, and WideSearch's item F1 of a table (2508.07999): cells of rows matched by their first
    cell. provenance: share of the gold plan's pages that were visited.
    """
    pages = {step.page for step in episode.plan if step.page is not None}
    opened = {normalise(title) for title in visited}
    provenance = sum(normalise(page) in opened for page in pages) / max(1, len(pages))
    return {**_right(episode, answer), "provenance": provenance}


def _right(episode: Episode, answer: str | None) -> dict[str, float]:
    if "rows" in episode.facts:
        return table(answer or "", episode.facts["rows"], episode.facts["header"][0])
    if "items" in episode.facts:
        told = answer or ""
        if episode.facts.get("style") == "plain":  # the words of the question may stand before a value
            told = ";".join(part.split()[-1] for part in re.split(r"[;\n]", told) if part.strip())
        return items(told, episode.facts["items"])
    return {"em": exact_match(answer, episode.answers), "f1": f1(answer, episode.answers)}


def items(answer: str, gold: Sequence[str]) -> dict[str, float]:
    """Answers in order, separated by semicolons or lines; numbers before them are passed over."""
    said = [normalise(_NUMBERING.sub("", part)) for part in re.split(r"[;\n]", answer) if part.strip()]
    right = [at < len(said) and said[at] == normalise(value) for at, value in enumerate(gold)]
    share = sum(right) / len(gold)
    return {"em": float(all(right) and len(said) == len(gold)), "f1": share, "items": share}


def table(answer: str, gold: Sequence[Sequence[str]], header: str) -> dict[str, float]:
    """Rows separated by lines or semicolons, cells by `|`; a ruler and a line that begins with `header` are no rows."""
    wanted = {normalise(row[0]): [normalise(cell) for cell in row] for row in gold}
    said: list[list[str]] = []
    for line in re.split(r"[;\n]", answer):
        cells = [normalise(cell) for cell in _NUMBERING.sub("", line).strip().strip("|").split("|")]
        if any(cells) and cells[0] != normalise(header):
            said.append(cells)
    first = {row[0]: row for row in reversed(said)}
    cells_right = sum(a == b for key, row in first.items() for a, b in zip(row, wanted.get(key, ()), strict=False))
    rows_right = sum(row == wanted.get(key) for key, row in first.items())
    share = _f1(cells_right, sum(map(len, said)), sum(map(len, wanted.values())))
    whole = rows_right == len(wanted) == len(said)
    return {"em": float(whole), "f1": share, "items": share, "rows": _f1(rows_right, len(said), len(wanted))}


def _f1(right: int, said: int, wanted: int) -> float:
    return 2 * right / (said + wanted) if said + wanted else 0.0
