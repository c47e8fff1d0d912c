"""Where a run of training happens and who is told of it: what every way to train is given beside its configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairtrial.core.clock import Clock
from fairtrial.training.journal import Watcher


@dataclass(frozen=True, slots=True)
class Session:
    """One call of a way to train; a folder with checkpoints is gone on with."""

    base: Path
    """Where the configuration's relative paths start from."""
    out: Path
    """Folder of the run; exists."""
    where: str
    """What messages call the configuration."""
    clock: Clock
    """For tokens/s and ETA."""
    watcher: Watcher
    """Is shown every row of metrics.jsonl."""
    phase: Callable[[str], None]
    """Is told what is happening before training begins."""
    stop: Callable[[], bool] = lambda: False
    """Asked after each step whether to save and leave."""
