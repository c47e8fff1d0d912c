"""The verbs import and export, and show for a collection: trajectories in and out of the formats of the world."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.registry import names
from fairtrial.formats.collection import Collection
from fairtrial.formats.exporting import Written, export_trajectories, rows_of
from fairtrial.formats.format import Ledgers, Row, named
from fairtrial.formats.importing import Summary, import_trajectories
from fairtrial.formats.reading import HUB, Options
from fairtrial.formats.source import readable_name
from fairtrial.store import RunDir


@dataclass(frozen=True, slots=True)
class Import:
    """How to import."""

    format: str | None
    faithful: bool
    endings: bool
    max_mb: int
    card: bool
    strict: bool
    replace: bool
    max_errored: float
    quiet: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What to export, and as what."""

    to: str | None
    arm: str | None
    min_reward: float | None
    endings: bool
    data: Path | None
    max_errored: float


def list_formats(as_json: bool) -> None:
    """Print every format with what can be done with it."""
    rows = [named(name) for name in names("formats")]
    if as_json:
        print_json(
            {
                "formats": [
                    {
                        "name": row.name,
                        "kind": row.kind,
                        "read": row.decode is not None,
                        "write": row.encode is not None,
                        "title": row.title,
                    }
                    for row in rows
                ]
            }
        )
        return
    for kind, title in (("format", "formats"), ("export", "exports"), ("dataset", "data sets")):
        _say(f"{title}:")
        for row in rows:
            if row.kind == kind:
                does = "/".join(word for word, can in (("read", row.decode), ("write", row.encode)) if can)
                _say(f"  {row.name:24s}{does:12s}{row.title}")


def import_(target: str, out: Path | None, wanted: Import) -> int:
    """Import into a collection; returns the exit code (3 above the error budget)."""
    place = out or Path("imported") / _name_of(target)
    options = Options(wanted.format, wanted.faithful, wanted.endings, wanted.max_mb << 20)
    noisy = not wanted.quiet and not wanted.as_json and sys.stderr.isatty()
    collection, summary = import_trajectories(
        target,
        place,
        options,
        card=wanted.card,
        strict=wanted.strict,
        replace=wanted.replace,
        progress=_progress if noisy else None,
    )
    over = summary.error_share > wanted.max_errored
    if wanted.as_json:
        print_json({"path": str(place), **collection.manifest, "ok": not over})
    else:
        _print_import(place, collection, summary, wanted.card)
    if over:
        budget = f"--max-errored {wanted.max_errored:g}"
        sys.stderr.write(
            f"fairtrial: {summary.errors} of {summary.values} values had an error, more than {budget} allows; "
            f"see {place / 'problems.jsonl'}\n"
        )
    return 3 if over else 0


def _name_of(target: str) -> str:
    if target.startswith(HUB):
        return target.removeprefix(HUB).replace("/", "-").replace(":", "-").replace("@", "-")
    path = Path(target).resolve()
    name = path.name
    for packed in (".gz", ".zst"):
        name = name.removesuffix(packed)
    return Path(name).stem if path.is_file() and (readable_name(path.name) or "." in name) else name


def _progress(summary: Summary, name: str) -> None:
    sys.stderr.write(f"\r\x1b[K{summary.trajectories:,} trajectories, {name}"[:110])
    sys.stderr.flush()


def _print_import(place: Path, collection: Collection, summary: Summary, card: bool) -> None:
    files = collection.manifest["files"]
    how = {(file["format"], file["how"]) for file in files}
    many = f"{len(files)} files" if len(files) > 1 else files[0]["name"] if files else "nothing"
    _say(f"{many}: {', '.join(f'{format} ({word})' for format, word in sorted(how))}")
    _say(f"{place}: {summary.trajectories:,} trajectories, {summary.items:,} items, from {summary.values:,} values")
    if summary.rejected:
        _say(f"rejected: {summary.rejected:,}")
    for title, counts in (("left out", summary.skipped), ("flaw", summary.flaws)):
        for reason, count in counts.most_common():
            _say(f"{title}: {count:,} x {reason}")
    if summary.redacted:
        _say(f"secrets replaced by a mark: in {summary.redacted:,} trajectories")
    _say_text(summary.text)
    for problem in summary.first_problems:
        _say(f"  {problem}")
    if summary.errors > len(summary.first_problems):
        _say(f"  ... all of them: {place / 'problems.jsonl'}")
    if card:
        _print_gates(place)


def _print_gates(place: Path) -> None:
    gates = orjson.loads((place / "quality.json").read_bytes())["gates"]
    broken = {name: gate for name, gate in gates.items() if gate["failed"]}
    _say(f"gates: {len(gates) - len(broken)} of {len(gates)} hold; quality card: {place / 'quality.html'}")
    for name, gate in broken.items():
        many = "1 trajectory fails" if gate["failed"] == 1 else f"{gate['failed']:,} trajectories fail"
        _say(f"  {name}: {many}; {gate['passes']}")


def _say_text(text: Ledgers) -> None:
    for title, counts in (("dropped", text.dropped), ("rewritten", text.rewritten), ("invented", text.invented)):
        for reason, count in counts.most_common():
            _say(f"text {title}: {reason} ({count:,} characters)")


def show_collection(path: Path, id: str | None, limit: int, as_json: bool) -> None:
    """Print the trajectories of a collection, or one of them whole."""
    from fairtrial.app.showing import print_trajectory

    collection = Collection.open(path)
    if id is None:
        _list(collection, limit, as_json)
        return
    trajectory = collection.get(id)
    if trajectory is None:
        known = [row["id"] for row in islice(collection.rows(), 500)]
        raise UserError(f'{path} holds no trajectory "{id}"{did_you_mean(id, known)}')
    if as_json:
        print_json(trajectory.model_dump(mode="json", exclude_none=True))
    else:
        print_trajectory(trajectory)


def _list(collection: Collection, limit: int, as_json: bool) -> None:
    rows = [_brief(row) for row in islice(collection.rows(), limit)]
    if as_json:
        print_json({**collection.manifest, "shown": rows})
        return
    from rich.table import Table
    from rich.text import Text

    from fairtrial.app.showing import printable
    from fairtrial.studies.report.terminal import open_console

    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("id", "items", "calls", "code", "messages", "reward", "begins"):
        table.add_column(name, overflow="fold", justify="left" if name in ("id", "begins") else "right")
    for row in rows:
        reward = "" if row["reward"] is None else f"{row['reward']:g}"
        begins = Text(printable(" ".join(row["begins"].split()), 60))
        counts = [str(row[name]) for name in ("items", "calls", "code", "messages")]
        table.add_row(Text(printable(row["id"], 60)), *counts, reward, begins)
    console = open_console()
    console.print(table)
    if len(rows) < len(collection):
        console.print(f"(first {len(rows)} of {len(collection):,}; --limit shows more)", style="dim")


def _brief(row: Row) -> dict[str, Any]:
    kinds = Counter(item["class_"] for item in row["content"])
    first = next((item["content"] for item in row["content"] if item.get("source") == "user" and "content" in item), "")
    return {
        "id": row["id"],
        "items": len(row["content"]),
        "calls": kinds["api_action"],
        "code": kinds["code_action"],
        "messages": kinds["message_action"],
        "reward": row.get("reward"),
        "begins": first[:400],
    }


def export(path: Path, out: Path, choice: Choice, as_json: bool) -> int:
    """Write a run's records, trajectories as another format, or a mixture; returns the exit code."""
    if path.suffix == ".toml":
        return _export_mixture(path, out, choice, as_json)
    if choice.to is None:
        if not RunDir.exists(path):
            raise UserError("say as what: --to FORMAT (fairtrial import --formats lists those that can be written)")
        _export_records(path, out, as_json)
        return 0
    rows = _run_rows(path, choice.arm) if RunDir.exists(path) else rows_of(path)
    if choice.min_reward is not None:
        least = choice.min_reward
        rows = (row for row in rows if (reward := row.get("reward")) is not None and reward >= least)
    format = named(choice.to)
    written = export_trajectories(rows, out, format, endings=choice.endings)
    _say_written(out, format.name, written, as_json)
    if written.error_share > choice.max_errored:
        sys.stderr.write(
            f"fairtrial: {sum(written.refused.values())} trajectories cannot be written as {format.name}\n"
        )
        return 3
    return 0


def _export_records(path: Path, out: Path, as_json: bool) -> None:
    from fairtrial.studies.run import Run

    with Run(path) as run:
        count = run.export(out)
    if as_json:
        print_json({"path": str(path), "out": str(out), "records": count})
    else:
        _say(f"{out}: {count} records")


def _run_rows(path: Path, arm: str | None) -> Iterator[Row]:
    """Trajectories of a run's latest attempts; the id is the trial, the reward its score."""
    with RunDir.open(path) as run:
        if arm is not None and arm not in (known := [one.arm for one in run.arms()]):
            raise UserError(f'{path} has no arm "{arm}"{did_you_mean(arm, known)}')
        for record in run.records(latest=True, arm=arm):
            if record.trajectory is None:
                continue
            row = record.trajectory.model_dump(mode="json", exclude_none=True)
            row["id"] = f"{record.key.arm}/{record.key.task}#{record.key.repeat}"
            if row.get("reward") is None and (reward := record.scores.get("reward")) is not None:
                row["reward"] = reward
            yield row


def _say_written(out: Path, format: str, written: Written, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(out), "format": format, **written.to_json()})
        return
    _say(f"{out}: {written.trajectories:,} trajectories as {written.values:,} values of {format}")
    for reason, count in written.refused.most_common():
        _say(f"refused: {count:,} x {reason}")
    for code, count in written.flaws.most_common():
        _say(f"flaw: {count:,} x {code}")
    _say_text(written.text)


def _export_mixture(path: Path, out: Path, choice: Choice, as_json: bool) -> int:
    from fairtrial.formats.mixture import build

    manifest = build(path, out, data=choice.data)
    values = problems = 0
    for harness, made in manifest["harnesses"].items():
        for facts in made["datasets"].values():
            problems += sum(facts["problems"].values())
            values += facts["trajectories"] + sum(facts["problems"].values())
        if not as_json:
            _print_mixture(out, harness, made)
    if as_json:
        print_json({"path": str(out), **manifest})
    elif manifest["absent"]:
        _say(f"absent: {', '.join(manifest['absent'])}")
    if values and problems / values > choice.max_errored:
        sys.stderr.write(f"fairtrial: {problems} of {values} values had an error; see {out / 'manifest.json'}\n")
        return 3
    return 0


def _print_mixture(out: Path, harness: str, made: dict[str, Any]) -> None:
    for file in made["files"]:
        _say(f"{out / file['file']}: {file['records']:,} records")
    _say(f"  {'data set':26s}{'weight':>8}{'usable':>9}{'refused':>9}{'taken':>9}{'records':>9}")
    for name, facts in made["datasets"].items():
        refused = sum(facts["refused"].values()) + sum(facts["problems"].values())
        taken, records = sum(facts["taken"]), sum(facts["records"])
        _say(f"  {name:26s}{facts['weight']:>8g}{facts['usable']:>9,}{refused:>9,}{taken:>9,}{records:>9,}")
        for reason, count in facts["refused"].items():
            _say(f"    refused: {count:,} x {reason}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
