"""The verb train sft: runs of agents, or anyone's trajectories, to a model or an adapter that has learned from them."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtrial.app.cli import print_json
from fairtrial.app.training import Progress, held, need_torch
from fairtrial.core.clock import SystemClock
from fairtrial.core.config import parse, read_toml
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.training.sft_launch import Launched
    from fairtrial.training.sft_settings import SftConfig


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for."""

    paths: tuple[Path, ...]
    model: str | None
    out: Path | None
    overrides: tuple[str, ...]
    quiet: bool
    as_json: bool


def train(request: Request) -> int:
    """Train, or go on training; returns the exit code (130: stopped by Ctrl-C, saved)."""
    need_torch()
    config, base, where = _configuration(request)
    out = request.out or Path("runs") / f"sft-{Path(config.data[0]).stem or 'run'}"
    with held(out):
        importlib.import_module("fairtrial.training.threads").wait_passively(os.environ)
        launching: Any = importlib.import_module("fairtrial.training.sft_launch")
        progress = SftProgress(SystemClock(), shown=not (request.quiet or request.as_json))
        with progress.session(base, out, where) as session:
            done: Launched = launching.launch(config, session)
    if request.as_json:
        print_json(_as_json(done, out))
    elif done.ended.finished:
        sys.stdout.write(_summary(done, out))
    if not done.ended.finished:
        sys.stderr.write(
            f"interrupted at step {done.ended.step} of {done.steps}; it is saved. The same command continues it "
            f"(--out {shlex.quote(str(out))})\n"
        )
        return 130
    return 0


def _configuration(request: Request) -> tuple[SftConfig, Path, str]:
    """The configuration, the folder that its relative paths start from, and how messages call it."""
    from fairtrial.studies.study import apply_override

    # By name: the models' settings know where their engines are.
    settings: Any = importlib.import_module("fairtrial.training.sft_settings")
    paths = request.paths
    if len(paths) == 1 and paths[0].suffix.lower() == ".toml" and paths[0].is_file():
        data: dict[str, Any] = read_toml(paths[0])
        base, where = paths[0].resolve().parent, str(paths[0])
    elif paths:
        data = {"data": [str(path.expanduser().resolve()) for path in paths]}
        base, where = Path.cwd(), "train sft"
    else:
        raise UserError("name what to learn from: fairtrial train sft RUN_OR_FILE --model native:FOLDER --out DIR")
    if request.model is not None:
        kind, colon, path = request.model.partition(":")
        here = Path.cwd() / Path(path).expanduser()
        data["model"] = f"{kind}:{here}" if colon and here.exists() else request.model
    if "model" not in data:
        raise UserError(f"{where}: say which model is to learn: --model native:FOLDER or --model hf:FOLDER")
    for override in request.overrides:
        apply_override(data, override)
    return parse(settings.SftConfig, data, where=where), base, where


class SftProgress(Progress):
    """Shows a run on standard error."""

    def saw(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""
        at = f"step {row['step']}/{self._steps}"
        if row["kind"] == "held_out_runs":
            self.phase(f"{at}  held-out runs: loss {row['loss']:.4f}, {row['accuracy']:.1%} of tokens right")
        elif row["kind"] == "practice":
            failed = ", ".join(f"{count} x {cause}" for cause, count in row["failed"].items())
            self.phase(f"{at}  {row['episodes']} episodes: em {row['em']:.3f}" + (f" ({failed})" if failed else ""))
        elif row["kind"] == "data" and row["left_out"]:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in row["left_out"].items())
            self.phase(f"not learned: {reasons}")
        else:
            super().saw(row)


def _summary(done: Launched, out: Path) -> str:
    ended = done.ended
    what = "an adapter" if done.adapter else "a model"
    lines = [f"{ended.step} steps, {done.rows} samples, {what} with {done.parameters:,} trained parameters"]
    if ended.loss is not None:
        lines.append(f"last loss {ended.loss:.4f}")
    if ended.held:
        lines.append(f"held-out runs: loss {ended.held['loss']:.4f}, {ended.held['accuracy']:.1%} of tokens right")
    if ended.practice:
        lines.append(f"{ended.practice['episodes']} episodes: em {ended.practice['em']:.3f}")
    if ended.skipped:
        lines.append(f"{ended.skipped} steps were skipped because an fp16 gradient overflowed")
    lines.append(f"metrics   {out / 'metrics.jsonl'}")
    if done.product is not None:
        lines.append(f"{'adapter' if done.adapter else 'model  '}   {done.product}")
        lines.append("opens as  model = " + (done.opens if done.adapter else f'"{done.opens}"'))
    return "\n".join(lines) + "\n"


def _as_json(done: Launched, out: Path) -> dict[str, Any]:
    found = asdict(done)
    paths = {"checkpoint": done.ended.checkpoint, "metrics": out / "metrics.jsonl", "product": done.product}
    texts = {name: None if path is None else str(path) for name, path in paths.items()}
    return found.pop("ended") | found | texts
