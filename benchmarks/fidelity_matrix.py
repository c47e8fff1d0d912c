"""Round-trip fidelity, format x format: what a trajectory of each format loses and gains in each other one.

usage: python benchmarks/fidelity_matrix.py [--rows 2] [--markdown] [--save] [--fields FORMAT]

A row of the table is a source: genuine samples under ../shared/cases where a format has some, otherwise what the
format's own writer makes of the genuine ADP trajectories. Each of its trajectories is written in each format (a column)
and read again. A cell gives the shares of leaf fields kept / rewritten / dropped of those before, and invented of those
after, in per cent; `=` is an exact round trip of every trajectory. What a format keeps for itself under `extra` is not
counted. `x2`: two trajectories could not be written or read in this format. `--fields` lists what was lost by field.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import machine, save

from fairtrial.core.errors import UserError
from fairtrial.core.registry import names
from fairtrial.formats.fidelity import Fidelity, compare, gathered, there_and_back
from fairtrial.formats.format import Format, Notes, Row, RowError, Skip, decode, named

CASES = Path(__file__).parents[2] / "shared" / "cases"
BROKEN = (RowError, UserError, KeyError, TypeError, ValueError, AttributeError, IndexError)


@dataclass
class Cell:
    """One source in one format."""

    counts: Fidelity = field(default_factory=Fidelity)
    failures: Counter[str] = field(default_factory=Counter)
    rows: int = 0

    def text(self) -> str:
        """Kept/rewritten/dropped/invented in per cent, `=` where all came back."""
        failed = self.failures.total()
        note = f" x{failed}" if failed else ""
        if not self.rows:
            return f"-{note}"
        if self.counts.is_exact():
            return f"={note}"
        return "/".join(_percent(share) for share in self.counts.shares()) + note


def _percent(share: float) -> str:
    """Whole per cent; never 0 or 100 for what is not exactly that."""
    if 0 < share < 0.01:
        return "<1"
    return f"{min(round(share * 100), 99) if share < 1 else 100}"


def known() -> tuple[list[Format], list[str]]:
    """The formats that can be loaded, and a word for each that cannot."""
    formats, absent = [], []
    for name in names("formats"):
        try:
            formats.append(named(name))
        except (UserError, ImportError, AttributeError) as error:
            absent.append(f"{name}: not importable ({type(error).__name__})")
    return formats, absent


def read(format: Format, values: list[Any], most: int, words: list[str]) -> list[Row]:
    """Up to `most` trajectories of a file's values, and a word for each value that gives none."""
    rows: list[Row] = []
    for value in gathered(format, values):
        if len(rows) == most:
            break
        try:
            row = decode(format, value, Notes())
        except RowError as error:
            words.append(f"{format.name}: a genuine value is no trajectory: {error}")
            continue
        if isinstance(row, Skip):
            words.append(f"{format.name}: a genuine value is left out: {row.reason}")
        else:
            rows.append(row)
    return rows


def genuine(formats: list[Format], most: int, words: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """(format, trajectories) of every sample file: standard ones as ADP v1, raw ones as the data set they look like."""
    for path in sorted(CASES.glob("adp/*/sample_std.json")):
        yield "adp-v1", read(named("adp-v1"), json.loads(path.read_text("utf-8")), most, words)
    for path in [*sorted(CASES.glob("adp/*/sample_raw.json")), *sorted(CASES.glob("runtime/*.traj.json"))]:
        value = json.loads(path.read_text("utf-8"))
        whole = _liked(formats, value)
        format, values = (
            (whole, [value]) if whole or not isinstance(value, list) else (_liked(formats, value[0]), value)
        )
        if format:
            yield format.name, read(format, values, most, words)


def _liked(formats: list[Format], value: Any) -> Format | None:
    """The format that a value is surely of."""
    best = max((format for format in formats if format.decode), key=lambda format: format.likes(value))
    return best if best.likes(value) >= 80 else None


def sources(formats: list[Format], most: int, words: list[str]) -> dict[str, list[Row]]:
    """Source format -> its trajectories."""
    found: dict[str, list[Row]] = {}
    for name, rows in genuine(formats, most, words):
        found.setdefault(name, []).extend(rows)
    adp = found.get("adp-v1", [])
    for format in formats:
        if format.decode is None or format.name in found:
            continue
        if format.encode is None:
            words.append(f"{format.name}: no genuine sample, and it cannot be written")
            continue
        for row in adp:
            try:
                found.setdefault(format.name, []).append(there_and_back(format, row))
            except BROKEN as error:
                words.append(f"{format.name}: a genuine ADP trajectory cannot be written and read: {_line(error)}")
    return {name: found[name] for name in names("formats") if found.get(name)}


def measure(rows: list[Row], format: Format) -> Cell:
    """What becomes of these trajectories in one format."""
    cell = Cell()
    for row in rows:
        before = json.dumps(row)
        try:
            back = there_and_back(format, row)
        except BROKEN as error:
            cell.failures[_line(error)] += 1
            continue
        if json.dumps(row) != before:
            cell.failures["the writer changed the trajectory that it was given"] += 1
        cell.rows += 1
        cell.counts.add(compare(row, back).vocabulary())
    return cell


def _line(error: Exception) -> str:
    kind = "" if isinstance(error, (RowError, UserError)) else f"{type(error).__name__}: "
    return kind + str(error).splitlines()[0][:110] if str(error) else type(error).__name__


def table(cells: dict[str, dict[str, Cell]], sizes: dict[str, int], markdown: bool) -> list[str]:
    """The matrix as lines of text or of markdown."""
    columns = list(next(iter(cells.values())))
    head = ["from \\ through", "n", *columns]
    lines = [[name, str(sizes[name]), *(row[column].text() for column in columns)] for name, row in cells.items()]
    if markdown:
        marks = ["---", "--:", *("---" for _ in columns)]
        return ["| " + " | ".join(line) + " |" for line in (head, marks, *lines)]
    widths = [max(len(line[place]) for line in (head, *lines)) for place in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    ]


def lost(cells: dict[str, dict[str, Cell]], name: str) -> Iterator[str]:
    """By field, over all sources: what one format rewrites, drops and invents."""
    total = Fidelity()
    for row in cells.values():
        total.add(row[name].counts)
    for what in ("rewritten", "dropped", "invented"):
        for path, count in getattr(total, what).most_common():
            yield f"{name}  {what:9}  {count:6}  {path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2, help="trajectories of each sample file")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--fields", metavar="FORMAT", action="append", default=[])
    options = parser.parse_args()
    if not CASES.exists():
        raise SystemExit("no genuine samples (expected under ../shared/cases)")
    start = time.process_time()
    formats, words = known()
    rows = sources(formats, options.rows, words)
    columns = [format for format in formats if format.decode and format.encode]
    cells = {name: {format.name: measure(given, format) for format in columns} for name, given in rows.items()}
    lines = table(cells, {name: len(given) for name, given in rows.items()}, options.markdown)
    lines += ["", "kept/rewritten/dropped/invented leaf fields in per cent; = exact; xN: N trajectories failed"]
    for name, row in cells.items():
        for column, cell in row.items():
            lines += [f"{name} through {column}: {count} x {why}" for why, count in cell.failures.items()]
    lines += [line for name in options.fields for line in lost(cells, name)]
    lines += [f"skipped: {word}" for word in dict.fromkeys(words)]
    lines += [f"{time.process_time() - start:.1f} CPU seconds, {machine()}"]
    print("\n".join(lines))
    if options.save:
        print(save("fidelity-matrix", "\n".join(lines)))


if __name__ == "__main__":
    main()
