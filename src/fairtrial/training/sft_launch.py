"""From settings to a trained model or adapter in a folder: what `fairtrial train sft` calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairtrial.models.native.kind import NativeSettings
from fairtrial.training.session import Session
from fairtrial.training.sft import SftEnded, SftTrainer
from fairtrial.training.sft_data import load_rows, packs_in
from fairtrial.training.sft_learners import open_learner
from fairtrial.training.sft_practice import Ground
from fairtrial.training.sft_settings import SftConfig, data_paths, learner_settings


@dataclass(frozen=True, slots=True)
class Launched:
    """What a call came to."""

    ended: SftEnded
    steps: int
    parameters: int
    """Trained ones."""
    rows: int
    learned: int
    """Tokens of one epoch that are learned."""
    product: Path | None
    """Folder of the model or the adapter; None where the run is not finished."""
    adapter: bool
    opens: str
    """What to write for `model` to use it: KIND:FOLDER, or a table with the adapter."""


def launch(config: SftConfig, session: Session) -> Launched:
    """Train in the session's folder. Raises UserError and StorageError: see `SftTrainer.run` and `load_rows`."""
    base, out, clock, phase = session.base, session.out, session.clock, session.phase
    settings = learner_settings(config, session.where)
    data_paths(config, base)
    ground = None if config.practice is None else Ground(config, config.practice, base, clock, session.where)
    phase("loading the model")
    learner = open_learner(config, settings, base)
    phase("reading the runs")
    limits = [limit for limit in (config.context, learner.context) if limit is not None]
    rows = load_rows(config, base, out, learner.speaker, min(limits, default=None))
    steps = config.steps
    if steps is None:
        packs = packs_in(rows.train, config.batch_tokens, config.seed, config.epochs)
        steps = -(-packs // config.accumulate)
    trained = [p for p in learner.precision.master.parameters() if p.requires_grad]
    parameters = sum(parameter.numel() for parameter in trained)
    about = rows.about()
    phase(
        f"{parameters:,} trained parameters, {about['rows']} samples with {about['tokens']:,} tokens, "
        f"{about['learned']:,} of them learned, {about['held_out']} held out, {config.precision}"
    )
    play = None if ground is None else ground.play
    ended = SftTrainer(config, steps, learner, rows, out, clock, session.watcher, session.stop, play).run()
    product = learner.publish(out) if ended.finished else None
    adapter = config.method == "lora"
    kind = "native" if isinstance(settings, NativeSettings) else "hf"
    opens = f"{kind}:{product}"
    if adapter:
        opens = f'{{ kind = "{kind}", path = "{settings.path}", adapter = "{product}" }}'
    return Launched(ended, steps, parameters, about["rows"], about["learned"], product, adapter, opens)
