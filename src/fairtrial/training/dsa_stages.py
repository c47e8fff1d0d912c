"""Sparse attention in stages on a model that was trained dense: select, warm the indexer up, train jointly.

DeepSeek-V3.2-Exp report, section 2 (dense warm-up: only the indexer learns, from the KL divergence to the attention
of the frozen model; sparse stage: the model learns from its own loss, the indexer from the KL on the selection), and
the controls that show what the selection is worth: the latest k keys, k keys at random, an indexer without training.

Axes: B sequences, T queries, S keys.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtrial.nn.checkpoint import load_module, module_tensors
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.ops.indexer import select
from fairtrial.training.fitting import Fit, Fitted, Logits, answer_loss, fit, split_batch, tensors
from fairtrial.training.measuring import Bench, Measured, Pause, best_rate, dense_runs, scored

INDEXER = ".indexer."
"""Part of the names of the indexer's parameters."""

Weights = Mapping[str, Tensor]


def measure_selected(bench: Bench, config: ModelConfig) -> Generator[float, None, Measured]:
    """Train dense (shared with every arm that does the same), go through the arm's stages, test under the selection."""
    arm = bench.arm
    logits_of = selected_logits(bench, config)
    if arm.from_start:
        runs = yield from _selected_runs(bench, config, logits_of)
        return scored(bench, config, runs, logits_of)
    dense = yield from dense_runs(bench, dense_config(config))
    lr = best_rate(dense)
    if not dense[lr].best:
        return scored(bench, dense_config(config), dense, lambda model: lambda tokens: model(tokens).logits)
    weights = with_indexer(config, dense[lr].last, bench.seed)
    run = Fitted(dict(weights), dict(weights))
    facts: dict[str, Any] = {
        "dense_validation": dense[lr].curve[-1][2], "dense_cpu_s": round(sum(one.cpu_s for one in dense.values()), 2)
    }  # fmt: skip
    if arm.select == "indexer":
        facts["kl_untrained"] = divergence(bench, config, weights)
    before: dict[str, Any] = {"dense": [bench.steps, lr]}
    if arm.warmup:
        before["warmup"] = [arm.warmup, arm.warmup_lr]
        run = yield from _warm_up(bench, config, run.last, before)
        facts |= {"kl_warm": divergence(bench, config, run.last), "warmup_cpu_s": round(run.cpu_s, 2)}
    if arm.joint:
        before["joint"] = [arm.joint, arm.joint_lr, arm.select, config.index_topk]
        run = yield from _joint(bench, config, run.last, before, logits_of)
        if arm.select == "indexer":
            facts["kl_joint"] = divergence(bench, config, run.last)
        facts["joint_cpu_s"] = round(run.cpu_s, 2)
    measured = scored(bench, config, {lr: run}, logits_of)
    return Measured(measured.scores, {**measured.details, **facts}, measured.diverged)


def dense_config(config: ModelConfig) -> ModelConfig:
    """The same model without indexers: every layer attends to all keys."""
    data = config.model_dump(exclude={"index_topk"})
    return ModelConfig.model_validate({**data, "pattern": config.pattern.replace("D", "M").replace("S", "M")})


def with_indexer(config: ModelConfig, dense: Weights, seed: int) -> dict[str, Tensor]:
    """Dense weights, and indexers as `Model(config, seed)` makes them."""
    fresh = module_tensors(Model(config, seed % 2**63))
    return {name: dense.get(name, tensor).clone() for name, tensor in fresh.items()}


def selected_logits(bench: Bench, config: ModelConfig) -> Callable[[Model], Logits]:
    """The model under the arm's selection."""
    if bench.arm.select == "indexer":
        return lambda model: lambda tokens: model(tokens, sparse="sparse").logits
    layers = [layer for layer, letter in enumerate(config.letters) if letter in "DS"]

    def fixed(model: Model) -> Logits:
        return lambda tokens: (
            model(
                tokens, replay={layer: fixed_selection(bench, config.index_topk, tokens, layer) for layer in layers}
            ).logits
        )

    return fixed


def fixed_selection(bench: Bench, k: int, tokens_BT: Tensor, layer: int) -> Tensor:
    """The latest k keys of each position, or k of those before it at random (other ones in each layer)."""
    size, length = tokens_BT.shape
    if bench.arm.select == "window":
        scores_BTS = torch.arange(length, dtype=torch.float32).expand(size, length, length)
    else:
        rng = torch.Generator().manual_seed((bench.seed + layer) % 2**63)
        scores_BTS = torch.rand(size, length, length, generator=rng)
    return select(scores_BTS, k, 0)


def divergence(bench: Bench, config: ModelConfig, weights: Weights) -> float:
    """KL(dense attention || indexer) on the validation split, mean over positions and layers, in nats."""
    model = Model(config, 0)
    load_module(model, weights, "the model")
    tokens, _ = tensors(split_batch(bench.task, bench.seed, "validation", 0, bench.suite.validation))
    with torch.no_grad():
        values = list(model(tokens, sparse="warmup").aux.indexer_kl.values())
    return torch.stack(values).mean().item()


def _selected_runs(
    bench: Bench, config: ModelConfig, logits_of: Callable[[Model], Logits]
) -> Generator[float, None, dict[float, Fitted]]:
    """Training under the selection from the first step, from the same initial weights as dense training."""
    runs: dict[float, Fitted] = {}
    for lr in bench.rates:
        settings = Fit(bench.steps, lr, bench.suite.evaluations)

        def start(folder: Path, settings: Fit = settings) -> Pause:
            first = module_tensors(Model(dense_config(config), bench.seed % 2**63))
            model = _loaded(config, with_indexer(config, first, bench.seed))
            call = logits_of(model)
            return (yield from fit(model, bench.answer_loss_at(call), lambda: bench.validate(call), settings, folder))

        stage = {"from_start": [settings.steps, lr, bench.arm.select, config.index_topk]}
        runs[lr] = yield from bench.run(config, stage, start)
    return runs


def _warm_up(bench: Bench, config: ModelConfig, weights: Weights, before: Mapping[str, Any]) -> Pause:
    """Only the indexers learn, from dense attention; does not depend on k, so that all k share the run."""
    shared = ModelConfig.model_validate(config.model_dump(exclude={"index_topk"}))

    def start(folder: Path) -> Pause:
        model = _loaded(shared, weights)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(INDEXER in name)

        def loss_at(step: int) -> tuple[Tensor, int]:
            tokens, _ = tensors(split_batch(bench.task, bench.seed, "warmup", step, bench.suite.batch))
            return sum_kl(model(tokens, sparse="warmup")), tokens.numel()

        settings = Fit(bench.arm.warmup, bench.arm.warmup_lr, 1)
        return (
            yield from fit(
                model, loss_at, lambda: bench.validate(lambda tokens: model(tokens, sparse="sparse").logits), settings,
                folder,
            )
        )  # fmt: skip

    return (yield from bench.run(shared, before, start))


def _joint(
    bench: Bench,
    config: ModelConfig,
    weights: Weights,
    before: Mapping[str, Any],
    logits_of: Callable[[Model], Logits],
) -> Pause:
    """Everything learns under the selection; an indexer from its KL on the selected keys, the rest from the answers."""

    def start(folder: Path) -> Pause:
        model = _loaded(config, weights)
        call = logits_of(model)

        def loss_at(step: int) -> tuple[Tensor, int]:
            tokens, targets = tensors(split_batch(bench.task, bench.seed, "joint", step, bench.suite.batch))
            if bench.arm.select != "indexer":
                return answer_loss(call(tokens), targets), tokens.numel()
            output = model(tokens, sparse="joint")
            return answer_loss(output.logits, targets) + sum_kl(output), tokens.numel()

        settings = Fit(bench.arm.joint, bench.arm.joint_lr, bench.suite.evaluations)
        return (yield from fit(model, loss_at, lambda: bench.validate(call), settings, folder))

    return (yield from bench.run(config, before, start))


def sum_kl(output: Any) -> Tensor:
    """The indexers' divergences of a forward pass, summed over the layers that have one."""
    return torch.stack(list(output.aux.indexer_kl.values())).sum()


def _loaded(config: ModelConfig, weights: Weights) -> Model:
    model = Model(config, 0)
    load_module(model, weights, "the model")
    return model
