"""From a configuration to a trained model: tokenizer, text, model, trainer. What `fairtrial train` calls."""

from __future__ import annotations

import shutil
from pathlib import Path

from fairtrial.nn import checkpoint, hub
from fairtrial.nn.checkpoint import steps
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.store import whole_folder
from fairtrial.training.continuing import Plan, make_plan
from fairtrial.training.corpus import ByteTokenizer, Encoder, training_part
from fairtrial.training.precision import usable_device
from fairtrial.training.pretrain import CHECKPOINTS, Trained, Trainer
from fairtrial.training.session import Session
from fairtrial.training.settings import TrainConfig, model_config

TOKENIZER = "tokenizer.json"
MODEL = "model"
"""Folder of a finished run with the trained model, as the kind of model `native` opens it."""


def launch(config: TrainConfig, session: Session, start: Path | None = None) -> tuple[Plan, Trained, int]:
    """Train in the session's folder; a finished model with a trained tokenizer is put into its folder `model`.

    Args:
        config: what to train.
        session: where, and who is told.
        start: a checkpoint of another run to branch from, where the folder has none yet.

    Returns:
        What the run stands on, how it ended, and its number of parameters.

    Raises:
        UserError, StorageError: see `Trainer.run` and `make_plan`.
    """
    base, out, phase = session.base, session.out, session.phase
    model_config(config, 1, session.where)  # Before the text is read: what is wrong is said at once.
    usable_device(config.device)
    phase("reading the text")
    tokenizer = _tokenizer(config, base, out, start)
    plan = make_plan(config, base, out, tokenizer, session.where)
    model = Model(plan.model, config.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(source.train.targets for source in plan.sources.values())
    phase(f"{parameters:,} parameters ({plan.model.letters}), {tokens:,} tokens of text, {config.precision}")
    ended = Trainer(plan, model, out, session.clock, session.watcher, session.stop).run(start)
    if ended.finished and isinstance(tokenizer, Tokenizer):
        _publish(plan, ended.checkpoint, tokenizer, out / MODEL)
    return plan, ended, parameters


def _publish(plan: Plan, weights: Path, tokenizer: Tokenizer, folder: Path) -> None:
    """The model of a checkpoint as a folder, in place of what an earlier end of this run left there."""
    model = Model(plan.model, 0)
    checkpoint.load_module(model, checkpoint.load(weights).groups["model"], str(weights))
    with whole_folder(folder) as partial:
        hub.save(model, partial)
        tokenizer.save(partial / TOKENIZER)
        shutil.rmtree(folder, ignore_errors=True)


def _tokenizer(config: TrainConfig, base: Path, out: Path, start: Path | None) -> Encoder:
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    if config.tokenizer != "train":
        return Tokenizer.load(base / Path(config.tokenizer).expanduser())
    kept = out / TOKENIZER
    if steps(out / CHECKPOINTS) and kept.exists():
        return Tokenizer.load(kept)
    branched = start.resolve().parent.parent / TOKENIZER if start is not None else None
    if branched is not None and branched.exists():
        learned = Tokenizer.load(branched)
    else:
        documents = (
            document
            for name, source in config.sources.items()
            for document in training_part(name, source, base, config.held_out)
        )
        learned = Tokenizer.train(documents, vocab_size=config.vocabulary)
    learned.save(kept)
    return learned
