"""The verb train: a configuration, or a user's own text files, to a model; the same command again continues."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtrial.app.cli import print_json
from fairtrial.core.clock import Clock, SystemClock
from fairtrial.core.config import parse, read_toml
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.training.continuing import Plan
    from fairtrial.training.pretrain import Trained
    from fairtrial.training.session import Session
    from fairtrial.training.settings import TrainConfig

_TEXT_DEFAULTS: dict[str, Any] = {
    "vocabulary": 1024,
    "model": {"preset": "tiny"},
    "optim": {"kind": "muon", "lr": 3e-3},
}
"""For a user's own text; every key can be overridden with --set."""

_LINE_S = 30.0
"""Where there is no terminal: seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for."""

    paths: tuple[Path, ...]
    text: bool
    out: Path | None
    overrides: tuple[str, ...]
    resume: bool
    start: Path | None
    quiet: bool
    as_json: bool


def train(request: Request) -> int:
    """Train, or go on training; returns the exit code (130: stopped by Ctrl-C, saved)."""
    need_torch()
    out = request.out or _default_out(request)
    config, base, where = _configuration(request, out)
    if request.resume and _last_checkpoint(out) is None:
        raise UserError(f"{out}: there is no checkpoint to resume; leave out --resume to start there")
    with held(out):
        progress = Progress(SystemClock(), shown=not (request.quiet or request.as_json))
        plan, ended, parameters = _train(config, base, where, out, request.start, progress)
    if request.as_json:
        print_json(_as_json(plan, ended, parameters, out))
    elif ended.finished:
        sys.stdout.write(_summary(plan, ended, parameters, out))
    if not ended.finished:
        again = shlex.join(["fairtrial", "train", "--resume", "--out", str(out)])
        sys.stderr.write(f"interrupted at step {ended.step} of {config.steps}; it is saved. Continue with: {again}\n")
        return 130
    return 0


def need_torch() -> None:
    """Raises UserError that names what to install."""
    for library in ("torch", "safetensors", "tokenizers"):
        if importlib.util.find_spec(library) is None:
            raise UserError(f'train needs {library}, which is not installed: pip install "fairtrial[local]"')


@contextmanager
def held(out: Path) -> Generator[None]:
    """The folder of a run, made and locked; new folders go again where the run is refused before its first step."""
    from fairtrial.store.disk import Lock, storing

    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / "lock")
    try:
        yield
    except UserError:
        if new and not (out / "metrics.jsonl").exists():
            shutil.rmtree(out, ignore_errors=True)
            with suppress(OSError):  # somebody else's file is in it by now
                for folder in new[1:]:
                    folder.rmdir()
        raise
    finally:
        lock.release()


def _default_out(request: Request) -> Path:
    if not request.paths:
        raise UserError("name what to train on: fairtrial train CONFIG.toml, or fairtrial train --text FILES --out DIR")
    return Path("runs") / (request.paths[0].stem or "text")


def _configuration(request: Request, out: Path) -> tuple[TrainConfig, Path, str]:
    """The configuration, the folder that its relative paths start from, and how messages call it."""
    from fairtrial.studies.study import apply_override
    from fairtrial.training.settings import TrainConfig

    if request.text:
        if not request.paths:
            raise UserError("--text: name the text files or folders to train on")
        files = [str(path.expanduser().resolve()) for path in request.paths]
        data: dict[str, Any] = {"sources": {"text": {"files": files}}} | deepcopy(_TEXT_DEFAULTS)
        base, where = Path.cwd(), "--text"
    elif request.paths:
        path, *more = request.paths
        if more:
            raise UserError("one configuration at a time; to train on text files, add --text")
        if path.suffix.lower() not in (".toml", "") and path.exists():
            raise UserError(f"{path}: not a TOML configuration; to train on a text file: fairtrial train --text {path}")
        data, base, where = read_toml(path), path.resolve().parent, str(path)
    elif request.resume:
        data, base = _remembered(out)
        where = str(out)
    else:
        raise UserError("name a configuration (fairtrial train CONFIG.toml), or text files with --text")
    for override in request.overrides:
        apply_override(data, override)
    return parse(TrainConfig, data, where=where), base, where


def _remembered(out: Path) -> tuple[dict[str, Any], Path]:
    last = _last_checkpoint(out)
    if last is None:
        raise UserError(f"{out}: there is no checkpoint to resume; give the configuration to start one")
    path = last / "checkpoint.json"
    try:
        meta = json.loads(path.read_bytes())["meta"]
        return dict(meta["config"]), Path(meta["base"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the configuration instead") from None


def _last_checkpoint(out: Path) -> Path | None:
    return max((out / "checkpoints").glob("step-*"), default=None)


def _train(
    config: TrainConfig, base: Path, where: str, out: Path, start: Path | None, progress: Progress
) -> tuple[Plan, Trained, int]:
    # By name, as engines load workers: nothing in this room leads to torch.
    importlib.import_module("fairtrial.training.threads").wait_passively(os.environ)
    launching: Any = importlib.import_module("fairtrial.training.launch")
    with progress.session(base, out, where) as session:
        return launching.launch(config, session, start)


class Progress:
    """Shows a run on standard error: one live line on a terminal; elsewhere a line now and then and per evaluation."""

    def __init__(self, clock: Clock, *, shown: bool) -> None:
        self.clock, self._shown = clock, shown
        self._live = shown and sys.stderr.isatty()
        self._steps, self._last, self._open = 0, -math.inf, False
        self._asked = False

    def phase(self, text: str) -> None:
        """What is happening now."""
        self._line(text)

    def began(self, step: int, steps: int) -> None:
        """Training begins or goes on."""
        self._steps = steps
        if step >= steps:
            self._line(f"all {steps} steps were made before")
        else:
            self._line(f"step {step} of {steps}: going on" if step else f"{steps} steps")

    def saw(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""
        if row["kind"] == "step":
            self._step(row)
        elif row["kind"] == "held_out":
            found = ", ".join(
                f"{name} {one['bits_per_byte']:.4f} bits per byte (loss {one['loss']:.4f})"
                for name, one in row["sources"].items()
            )
            self._line(f"step {row['step']}/{self._steps}  held out: {found}")
        elif row["kind"] == "stage" and (row["stage"] != "main" or "shares_summed_to" in row):
            total = row.get("shares_summed_to")
            said = f" (its shares summed to {total:.6g} and were divided by that)" if total else ""
            self._line(f"step {row['step']}/{self._steps}  stage {row['stage']}{said}")

    @contextmanager
    def session(self, base: Path, out: Path, where: str) -> Generator[Session]:
        """A session that Ctrl-C (or SIGTERM) asks to stop; the second one interrupts at once. See `Session`."""
        from fairtrial.training.session import Session

        def seen(number: int, frame: object) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True
            self._line("interrupted: finishing this step, then saving; Ctrl-C again leaves at once")

        before = {number: signal.signal(number, seen) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield Session(base, out, where, self.clock, self, self.phase, lambda: self._asked)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._open:
                sys.stderr.write("\n")
                self._open = False

    def _step(self, row: dict[str, Any]) -> None:
        now = self.clock.monotonic()
        if now - self._last < (0.2 if self._live else _LINE_S) and not (self._live and row["step"] == self._steps):
            return
        self._last = now
        skipped = f"  {row['skipped']} skipped" if row.get("skipped") else ""
        text = (
            f"step {row['step']}/{self._steps}  loss {row['loss']:.4f}  {row['tokens_per_s']:,.0f} tokens/s"
            f"  ETA {_clock(row['eta_s'])}{skipped}"
        )
        if not self._live:
            return self._line(text)
        self._open = True
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()

    def _line(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[2K{text}\n" if self._open else f"{text}\n")
            sys.stderr.flush()
            self._open = False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _summary(plan: Plan, ended: Trained, parameters: int, out: Path) -> str:
    lines = [f"{ended.step} steps of a model with {parameters:,} parameters ({plan.model.letters})"]
    for name, found in ended.held.items():
        lines.append(f"held out from {name}: {found['bits_per_byte']:.4f} bits per byte, loss {found['loss']:.4f}")
    if ended.skipped:
        lines.append(f"{ended.skipped} steps were skipped because an fp16 gradient overflowed")
    lines += [f"weights   {ended.checkpoint}", f"metrics   {out / 'metrics.jsonl'}"]
    if (model := _model(out)) is not None:
        lines.append(f"model     {model}  (fairtrial serve native:{shlex.quote(model)})")
    return "\n".join(lines) + "\n"


def _as_json(plan: Plan, ended: Trained, parameters: int, out: Path) -> dict[str, Any]:
    found = asdict(ended) | {"checkpoint": str(ended.checkpoint), "held_out": ended.held}
    found.pop("held")
    return found | {
        "steps": plan.config.steps,
        "parameters": parameters,
        "layers": plan.model.letters,
        "metrics": str(out / "metrics.jsonl"),
        "model": _model(out) if ended.finished else None,
    }


def _model(out: Path) -> str | None:
    """The folder that the kind of model `native` opens; None where the tokens are bytes, which have no tokenizer."""
    folder = out / "model"
    return str(folder) if folder.is_dir() else None
