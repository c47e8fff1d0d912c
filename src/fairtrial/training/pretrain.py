"""Pre-training: stages, gradient accumulation, evaluation on held-out text, checkpoints that resume bit for bit.

A run is a function of its configuration and its text: what is drawn at a step depends on the seed and the position
alone, so a run that was killed ends with the same weights, bit for bit, as one that was not (same machine, same number
of threads). `continuing.make_plan` brings everything together, `Trainer.run` trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairtrial.core.clock import Clock
from fairtrial.core.errors import UserError
from fairtrial.nn import checkpoint
from fairtrial.nn.call import Aux
from fairtrial.nn.checkpoint import Checkpoint
from fairtrial.nn.model import Output
from fairtrial.nn.schedule import factor
from fairtrial.store import storing
from fairtrial.training import losses
from fairtrial.training.continuing import Plan, check_continues
from fairtrial.training.data import Batch, Mixture, held_batches
from fairtrial.training.journal import Journal, Silent, Watcher
from fairtrial.training.precision import Precision, usable_device
from fairtrial.training.updates import Updates

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class Trained:
    """How a call of `Trainer.run` ended."""

    step: int
    """Steps made in all, earlier calls included."""
    finished: bool
    """False: it was asked to stop; the checkpoint at `step` continues it."""
    checkpoint: Path
    loss: float | None
    """Of the last step; None where this call made none."""
    held: dict[str, dict[str, float]]
    """The last evaluation: source -> loss (nats per token), bits_per_byte."""
    skipped: int
    """fp16 steps that were skipped because a gradient overflowed."""


@dataclass(slots=True)
class _Sums:
    """Losses of one step, averaged over its forward passes."""

    total: float = 0.0
    lm: float = 0.0
    mtp: float | None = None
    kl: float | None = None


class Trainer:
    """One run in one folder."""

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        out: Path,
        clock: Clock,
        watcher: Watcher | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`model` has fp32 parameters; `stop` is asked after each step whether to save and leave."""
        self.plan, self.config, self.out = plan, plan.config, out
        self.clock, self.stop = clock, stop
        self.precision = Precision(model.to(usable_device(self.config.device)), self.config.precision)
        self.updates = Updates(self.precision, self.config.optim)
        self.mixture = Mixture([one.train for one in plan.sources.values()], self.config.context, self.config.seed)
        self.journal = Journal(out, watcher or Silent())
        self.watcher = watcher or Silent()
        self.step = self.tokens = 0
        self.stage = -1
        self._audited = False
        self._held: dict[str, dict[str, float]] = {}
        self._loads: dict[int, Tensor] = {}

    def run(self, start: Path | None = None) -> Trained:
        """Train to the end, or until `stop`; continues from the folder's last checkpoint, else from `start`.

        Raises UserError where the run cannot go on as it was configured (NaN, a changed configuration, a damaged
        checkpoint) and StorageError where the disk refuses; the last good checkpoint stays.
        """
        last = checkpoint.latest(self.out / CHECKPOINTS) or start
        if last is not None:
            self._restore(last)
        self.journal.open(self.step)
        try:
            return self._train()
        finally:
            self.journal.close()

    def _train(self) -> Trained:
        config, loss = self.config, None
        self.watcher.began(self.step, config.steps)
        began, done = self.clock.monotonic(), 0
        while self.step < config.steps:
            self._enter_stage()
            sums, norm = self._forward_backward()
            made = self._update(norm)
            self.step, done = self.step + 1, done + 1
            self.tokens += config.batch_tokens * config.accumulate
            loss = sums.lm
            self._note(sums, norm, made, self.clock.monotonic() - began, done)
            halted = self.stop()
            if self.step % config.eval_every == 0 or self.step == config.steps:
                self._evaluate()
            if self.step % config.save_every == 0 or self.step == config.steps or halted or self._pins():
                self._save()
            if halted and self.step < config.steps:
                return self._ended(loss, finished=False)
        return self._ended(loss, finished=True)

    def _ended(self, loss: float | None, *, finished: bool) -> Trained:
        path = checkpoint.latest(self.out / CHECKPOINTS)
        if path is None:
            path = self._save()
        return Trained(self.step, finished, path, loss, self._held, self.precision.scale.skipped)

    def _enter_stage(self) -> None:
        index = self.config.stage_at(self.step, self.plan.stages)
        if index == self.stage:
            return
        stage = self.plan.stages[index]
        trained = losses.trained_names(self.precision.master, stage)
        self.precision.freeze(trained)
        self.mixture.begin(stage.shares)
        self.stage, self._audited = index, False
        note = {} if abs(stage.total - 1) < 1e-6 else {"shares_summed_to": stage.total}
        self.journal.write(
            "stage",
            self.step,
            stage=stage.name,
            shares=stage.shares,
            trained=len(trained),
            of=len(self.updates.names),
            **note,
        )

    def _forward_backward(self) -> tuple[_Sums, float]:
        stage, sums = self.plan.stages[self.stage], _Sums()
        self.updates.clear()
        self._loads = {}
        mode = losses.sparse_stage(stage, self.precision.master, self.config.index_weight)
        share = 1 / self.config.accumulate
        for _ in range(self.config.accumulate):
            batch = self.mixture.draw(self.config.batch_tokens)
            output, targets_T = self._forward(batch, mode)
            found = losses.objective(output, targets_T, batch.borders.tolist(), self.config, stage)
            if not self._audited and stage.train == "all" and found.kl is not None:
                losses.audit_walls(found, self.precision.forward.named_parameters())
            self.updates.refuse_loss(self.step + 1, found.total.item())
            self.precision.backward(found.total * share)
            _add(sums, found, share)
            for layer, load_E in output.aux.expert_load.items():
                self._loads[layer] = self._loads.get(layer, 0) + load_E
        if not self._audited and self.precision.broken_gradient() is None:
            losses.audit_frozen(self.precision.master, losses.trained_names(self.precision.master, stage), stage)
            self._audited = True
        return sums, self.updates.clipped()

    def _forward(self, batch: Batch, sparse: str) -> tuple[Output, Tensor]:
        device = self.config.device
        tokens_BT = torch.from_numpy(batch.inputs)[None].to(device)
        targets_T = torch.from_numpy(batch.targets).to(device)
        borders = torch.from_numpy(batch.borders).to(device)
        try:
            return self.precision.forward(tokens_BT, cu_seqlens=borders, sparse=sparse), targets_T
        except UserError as error:
            # A layer that refuses NaN speaks first; the weight behind it says more.
            self.updates.refuse_weights(self.step + 1)
            raise self.updates.stopped(self.step + 1, str(error)) from None

    def _update(self, norm: float) -> bool:
        """One optimiser step; False where it was skipped (fp16 overflow)."""
        stage = self.plan.stages[self.stage]
        rate = factor(self.config.schedule, self.step, self.config.steps)
        rate *= 1.0 if stage.lr is None else stage.lr / self.config.optim.lr
        if not self.updates.step(self.step + 1, norm, rate):
            return False
        if self._loads and stage.train == "all":
            master: Any = self.precision.master
            master.update_router_bias(Aux(expert_load=self._loads), self.config.router_rate)
        self.precision.updated()
        return True

    def _note(self, sums: _Sums, norm: float, made: bool, seconds: float, done: int) -> None:
        config = self.config
        speed = done * config.batch_tokens * config.accumulate / max(seconds, 1e-9)
        more: dict[str, Any] = {name: value for name in ("mtp", "kl") if (value := getattr(sums, name)) is not None}
        self.journal.write(
            "step",
            self.step,
            loss=sums.lm,
            **self.updates.row(norm, made),
            tokens=self.tokens,
            tokens_per_s=speed,
            eta_s=(config.steps - self.step) * seconds / done,
            epochs=self.mixture.epochs(),
            **more,
        )

    @torch.no_grad()
    def _evaluate(self) -> None:
        stage, model = self.plan.stages[self.stage], self.precision.forward
        mode = "dense" if stage.attention == "dense" and losses.indexer_names(model) else "sparse"
        model.eval()
        for name, source in self.plan.sources.items():
            if source.held is None:
                continue
            nats = count = size = 0.0
            for batch in held_batches(
                source.held, self.config.context, self.config.batch_tokens, self.config.eval_tokens
            ):
                output, targets_T = self._forward(batch, mode)
                nats += float(losses.cross_entropy(output.logits[0], targets_T)) * len(batch.targets)
                count += len(batch.targets)
                size += float(self.plan.token_bytes[batch.targets].sum())
            if not math.isfinite(nats):
                raise self.updates.stopped(self.step, f"the held-out loss of {name} is {nats}")
            self._held[name] = {"loss": nats / count, "bits_per_byte": nats / math.log(2) / max(size, 1.0)}
        model.train()
        if self._held:
            self.journal.write("held_out", self.step, sources=self._held)

    def _pins(self) -> bool:
        """Whether this is the last step before the decay: it is kept, to extend the run or to branch from."""
        schedule = self.config.schedule
        return schedule.kind == "wsd" and schedule.decay > 0 and self.step == self.config.steps - schedule.decay

    def _save(self) -> Path:
        model = checkpoint.module_tensors(self.precision.master)
        meta = self.plan.record() | {
            "tokens": self.tokens,
            "stage": self.stage,
            "data": self.mixture.state(),
            "loss_scale": self.precision.scale.state(),
            "rng": {"seed": self.config.seed, "position": self.step},
            "held": self._held,
        }
        folder, schedule = self.out / CHECKPOINTS, self.config.schedule
        pinned = [self.config.steps - schedule.decay] if schedule.decay else []
        with storing(folder):
            return checkpoint.save(
                folder,
                Checkpoint(self.step, {"model": model, "optimiser": self.updates.state()}, meta),
                keep=self.config.keep,
                pinned=pinned,
            )

    def _restore(self, path: Path) -> None:
        saved = checkpoint.load(path)
        check_continues(self.plan, saved, path)
        checkpoint.load_module(self.precision.master, saved.groups["model"], str(path))
        self.updates.restore(saved.groups["optimiser"])
        self.precision.updated()
        self.precision.scale.restore(saved.meta["loss_scale"])
        self.step, self.tokens, self._held = saved.step, int(saved.meta["tokens"]), dict(saved.meta["held"])
        if self.step < self.config.steps:
            index = self.config.stage_at(self.step, self.plan.stages)
            stage = self.plan.stages[index]
            self.mixture.restore(saved.meta["data"], stage.shares)
            if index == saved.meta["stage"]:
                self.stage = index
                self.precision.freeze(losses.trained_names(self.precision.master, stage))


def _add(sums: _Sums, found: losses.Losses, share: float) -> None:
    sums.total += found.total.item() * share
    sums.lm += found.lm.item() * share
    if found.mtp is not None:
        sums.mtp = (sums.mtp or 0.0) + found.mtp.item() * share
    if found.kl is not None:
        sums.kl = (sums.kl or 0.0) + found.kl.item() * share
