"""Progress on standard error: a live table of arms x outcomes with spend and ETA, only on a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.table import Table

from fairtrial.core.record import Outcome, Record

_COLUMNS = (Outcome.SCORED, Outcome.FAILED, Outcome.ERRORED, Outcome.SKIPPED)


class LiveProgress:
    """Shows a run as it goes; on something that is no terminal it prints only the phases and interruptions."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        self.live_wanted = self.console.is_terminal and not quiet
        self.quiet = quiet
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("preparing", total=None)
        self._spinner = Spinner("dots")
        self._outcomes: dict[str, Counter[str]] = {}
        self._scores: dict[str, list[float]] = {}
        self._tokens, self._cost, self._shown = 0, 0.0, 0.0
        self._live: Live | None = None

    @contextmanager
    def watching(self) -> Generator[LiveProgress]:
        """Show while inside."""
        if not self.live_wanted:
            yield self
            return
        with Live(
            self._view(), console=self.console, transient=True, refresh_per_second=4, redirect_stdout=False
        ) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def phase(self, text: str) -> None:
        """A step that shows no records."""
        self._bar.update(self._task, description=text)
        if not self.live_wanted and not self.quiet:
            sys.stderr.write(f"{text}\n")
        self._refresh(True)

    def started(self, planned: int, done: int) -> None:
        """Trials begin."""
        text = f"trials ({done} done before)" if done else "trials"
        self._bar.reset(self._task, total=planned, completed=done, description=text)
        if not self.live_wanted and not self.quiet:
            sys.stderr.write(f"{planned} {text}\n")
        self._refresh(True)

    def record(self, record: Record) -> None:
        """One more durable record."""
        self._outcomes.setdefault(record.key.arm, Counter())[record.outcome] += 1
        if record.scores:
            self._scores.setdefault(record.key.arm, []).append(next(iter(record.scores.values())))
        self._tokens += record.usage.tokens
        self._cost += record.usage.cost_usd
        self._bar.advance(self._task)
        self._refresh(False)

    def draining(self, in_flight_only: bool) -> None:
        """Ctrl-C was seen."""
        text = "finishing what is in flight; Ctrl-C again stops it" if in_flight_only else "stopping"
        self._bar.update(self._task, description=text)
        if not self.quiet:
            self.console.print(f"[yellow]interrupted:[/yellow] {text}", highlight=False)

    def _refresh(self, now: bool) -> None:
        if self._live is not None and (now or time.monotonic() - self._shown > 0.2):
            self._shown = time.monotonic()
            self._live.update(self._view())

    def _view(self) -> Group:
        if self._bar.tasks[0].total is None:
            self._spinner.update(text=self._bar.tasks[0].description)
            return Group(self._spinner)
        if not self._outcomes:
            return Group(self._bar)
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("arm")
        for outcome in _COLUMNS:
            table.add_column(outcome.value, justify="right")
        table.add_column("mean so far", justify="right")
        for arm, counts in sorted(self._outcomes.items()):
            scores = self._scores.get(arm, [])
            mean = f"{sum(scores) / len(scores):.3f}" if scores else "-"
            table.add_row(arm, *(str(counts[outcome] or "-") for outcome in _COLUMNS), mean)
        spend = f"{self._tokens:,} tokens   ${self._cost:.2f}" if self._tokens or self._cost else ""
        return Group(table, self._bar, *([spend] if spend else []))
