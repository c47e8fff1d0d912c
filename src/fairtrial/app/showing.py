"""The verb show: the trials of a run or the trajectories of a collection, or one of them whole."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.record import Outcome, Record, TrialKey
from fairtrial.core.trajectory import (
    ApiAction,
    CodeAction,
    ImageObservation,
    Item,
    MessageAction,
    TextObservation,
    Trajectory,
)
from fairtrial.formats.collection import Collection
from fairtrial.store import RunDir

_TRIAL = re.compile(r"(?P<arm>[^/]+)/(?P<task>.+)#(?P<repeat>\d+)(?:\.(?P<attempt>\d+))?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which trials to list."""

    arm: str | None
    task: str | None
    outcome: str | None
    limit: int


def show(path: Path, trial: str | None, wanted: Filter, artifact: str | None, as_json: bool) -> None:
    """Print the trials of a run, one record whole, or one artifact of it; or the same of a collection."""
    if Collection.exists(path):
        if wanted.arm or wanted.task or wanted.outcome or artifact:
            raise UserError(f"{path} is a collection: --arm, --task, --outcome and --open are for runs")
        from fairtrial.app.trajectories import show_collection

        show_collection(path, trial, wanted.limit, as_json)
        return
    with RunDir.open(path) as run:
        if trial is not None:
            _show_one(run, trial, artifact, as_json)
        elif artifact is not None:
            raise UserError("--open shows an artifact of one trial: name it as ARM/TASK#REPEAT")
        else:
            _list(run, wanted, as_json)


def _show_one(run: RunDir, trial: str, artifact: str | None, as_json: bool) -> None:
    path = run.path
    match = _TRIAL.fullmatch(trial)
    if match is None:
        raise UserError(f"{trial!r} names no trial: write ARM/TASK#REPEAT, such as control/csv-sales-rollup#0")
    attempt = int(match["attempt"]) if match["attempt"] else None
    record = _find(run, match["arm"], match["task"], int(match["repeat"]), attempt)
    if record is None:
        known = {f"{arm}/{task}#{repeat}" for arm, task, repeat in run.done()}
        raise UserError(f"{path} holds no trial {trial}{did_you_mean(trial, known) if len(known) < 500 else ''}")
    if artifact is not None:
        blobs = {**record.artifacts, **({"visible": record.visible} if record.visible else {})}
        if artifact not in blobs:
            raise UserError(f'{trial} has no artifact "{artifact}"{did_you_mean(artifact, blobs)}')
        sys.stdout.buffer.write(run.blobs.get(blobs[artifact]))
    elif as_json:
        print_json(record.model_dump(mode="json"))
    else:
        _print_record(record)


def _list(run: RunDir, wanted: Filter, as_json: bool) -> None:
    if wanted.outcome is not None and wanted.outcome not in set(Outcome):
        raise UserError(f'no outcome "{wanted.outcome}"{did_you_mean(wanted.outcome, [str(item) for item in Outcome])}')
    records = [run.get(key) for key in islice(_matching(run, wanted), wanted.limit)]
    if as_json:
        print_json({"trials": [_brief(record) for record in records]})
        return
    from rich.table import Table
    from rich.text import Text

    from fairtrial.studies.report.terminal import open_console

    table = Table(box=None, header_style="dim", pad_edge=False)
    names = list(dict.fromkeys(name for record in records for name in record.scores if name != "strict"))
    heads = names if len(names) > 1 else ["score"]
    for name in ("trial", "outcome", *heads, "seconds", "cause", "message"):
        table.add_column(name, overflow="fold", justify="right" if name in (*heads, "seconds") else "left")
    for record in records:
        scores = [f"{record.scores[name]:.3f}" if name in record.scores else "" for name in names] or [""]
        seconds = f"{record.timings.wall_s:.2f}" if record.timings else ""
        message = Text(printable(record.message or "", 90))
        table.add_row(Text(str(record.key)), record.outcome, *scores, seconds, record.cause or "", message)
    console = open_console()
    console.print(table)
    if len(records) == wanted.limit:
        console.print(f"(first {wanted.limit}; --limit shows more)", style="dim")


def _matching(run: RunDir, wanted: Filter) -> Iterator[TrialKey]:
    for row in run.rows(latest=True):
        named = (wanted.arm in (None, row.arm)) and (wanted.task in (None, row.task))
        if named and wanted.outcome in (None, row.outcome):
            yield TrialKey(arm=row.arm, task=row.task, repeat=row.repeat, attempt=row.attempt)


def _find(run: RunDir, arm: str, task: str, repeat: int, attempt: int | None) -> Record | None:
    if attempt is None:
        return run.latest(arm, task, repeat)
    try:
        return run.get(TrialKey(arm=arm, task=task, repeat=repeat, attempt=attempt))
    except KeyError:
        return None


def _brief(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json", include={"key", "outcome", "scores", "cause", "message", "timings", "flags"})


def _print_record(record: Record) -> None:
    from fairtrial.studies.report.terminal import open_console

    console = open_console()
    out = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731 - one short printer
    out(f"{record.key}   {record.outcome}   " + "  ".join(f"{name}={value:g}" for name, value in record.scores.items()))
    if record.cause or record.message:
        out(f"cause: {record.cause or ''}  {printable(record.message or '')}")
    if record.timings:
        timings = record.timings
        out(f"time: {timings.working_s:.2f} s working, {timings.waiting_s:.2f} s waiting (provider, verifier)")
    if record.usage.calls or record.usage.tokens:
        usage = record.usage
        out(f"usage: {usage.calls} calls, {usage.input_tokens} + {usage.output_tokens} tokens, ${usage.cost_usd:.4f}")
    for flag in record.flags:
        out(f"flag: {flag}")
    for name, value in record.provenance.items():
        out(f"{name}: {value}")
    if record.visible:
        out("artifact visible: what the agent could read")
    for name, blob in record.artifacts.items():
        out(f"artifact {name}: {blob.size} bytes, sha256 {blob.sha256[:16]}")
    for name, value in record.details.items():
        out(f"{name}: {printable(str(value), 400)}")
    if record.trajectory:
        out("")
        _print_items(out, record.trajectory)


def print_trajectory(trajectory: Trajectory, indent: str = "") -> None:
    """Print one trajectory, its sub-agents' runs behind it."""
    from fairtrial.studies.report.terminal import open_console

    console = open_console()
    out = lambda text: console.print(f"{indent}{text}", markup=False, soft_wrap=True)  # noqa: E731 - one short printer
    reward = "" if trajectory.reward is None else f"   reward {trajectory.reward:g}"
    out(f"{printable(trajectory.id, 200)}   {len(trajectory.content)} items{reward}")
    origin = trajectory.extra.get("fairtrial")
    for name, value in (origin if isinstance(origin, dict) else {}).items():
        out(f"{name}: {printable(str(value), 200)}")
    if trajectory.tools:
        offered = ", ".join(str(tool.get("function", tool).get("name", "?")) for tool in trajectory.tools)
        out(f"tools: {printable(offered, 400)}")
    for name, value in trajectory.details.items():
        out(f"{name}: {printable(str(value), 400)}")
    out("")
    _print_items(out, trajectory)
    for run in trajectory.subagents:
        out("")
        print_trajectory(run, indent + "    ")


def _print_items(out: Callable[[str], None], trajectory: Trajectory) -> None:
    for item in trajectory.content:
        if isinstance(item, ApiAction | CodeAction | MessageAction):
            if item.reasoning:
                out(f"agent reasons: {printable(item.reasoning, 2000)}")
            if item.description:
                out(f"agent thinks: {printable(item.description, 2000)}")
        out(_line(item) + ("   [synthetic]" if item.synthetic else ""))


def _line(item: Item) -> str:
    if isinstance(item, MessageAction):
        return f"agent says: {printable(item.content, 2000)}"
    if isinstance(item, CodeAction):
        return f"agent runs ({item.language}): {printable(item.content, 2000)}"
    if isinstance(item, ApiAction):
        given = item.malformed or ", ".join(f"{key}={value!r}" for key, value in item.kwargs.items())
        broken = "   [malformed arguments]" if item.malformed is not None else ""
        return f"agent calls {printable(item.function, 200)}({printable(given, 2000)}){broken}"
    if isinstance(item, TextObservation):
        name = f" {printable(item.name, 60)}" if item.name else ""
        return f"{item.source}{name}{' (error)' if item.is_error else ''}: {printable(item.content, 2000)}"
    if isinstance(item, ImageObservation):
        return f"{item.source}: image {printable(item.content, 100)}"
    return f"web page {printable(item.url or '', 300)}\n{printable(item.axtree or item.html or '', 600)}".rstrip()


def printable(text: str, limit: int = 10_000) -> str:
    """`text` cut to `limit` characters, with control and bidirectional-override characters shown as symbols."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(_visible(char) for char in shown)


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or (code >= 0x20 and code not in (0x7F,) and not 0x80 <= code <= 0x9F):
        return f"<U+{code:04X}>" if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 else char
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"


def show_tokens(path: Path, trial: str | None, model: str) -> None:
    """Print which tokens of a run `model` (native:FOLDER, hf:FOLDER) would learn in supervised training."""
    if trial is None:
        raise UserError("--tokens: say of which run, as ARM/TASK#REPEAT or a trajectory's id")
    view: Any = importlib.import_module("fairtrial.training.sft_view")
    for line in view.run_tokens(path, trial, model, Path.cwd()):
        sys.stdout.write(f"{line}\n")
