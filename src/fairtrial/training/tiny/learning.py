"""Training on lessons: packed rows with a weight for each target, slow embeddings, warm-up, stable, decay.

Names are exchanged in every lesson, so only their initial vectors tell them apart while all of them are moved alike. An
embedding that learns ten times slower than the rest keeps them apart.

Legend: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.nn.model import Model
from fairtrial.nn.optim import clip, is_table, optimisers, set_rate
from fairtrial.nn.schedule import OptimConfig, Schedule, factor
from fairtrial.training.tiny.lessons import Lesson, Renamer
from fairtrial.training.tiny.recipe import Recipe


def rows(
    lessons: Sequence[Lesson], renamer: Renamer | None, batch_tokens: int, seed: str, *, easy: bool = True
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Endless rows of about `batch_tokens`: inputs [1, T], targets [T], weights [T], borders.

    The order of each epoch and the names that lessons get in it follow from the seed. `easy`: the first epoch begins
    with short lessons.
    """
    if not lessons:
        raise UserError("there is no lesson to learn from; play at least one episode")
    epoch = 0
    ids: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    have = 0
    while True:
        rng = random.Random(f"{seed} {epoch}")  # noqa: S311 - a repeatable order, no secret
        order = list(range(len(lessons)))
        rng.shuffle(order)
        if epoch == 0 and easy:  # short ones first: copying is learned where there is little to copy from
            order.sort(key=lambda at: len(lessons[at].ids) * rng.uniform(0.5, 1.5))
        for at in order:
            lesson = lessons[at]
            ids.append(lesson.ids if renamer is None else renamer.renamed(lesson.ids, rng))
            weights.append(lesson.weights)
            have += len(lesson.ids) - 1
            if have >= batch_tokens:
                yield _packed(ids, weights)
                ids, weights, have = [], [], 0
        epoch += 1


def _packed(ids: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = np.concatenate([one[:-1] for one in ids]).astype(np.int64)
    targets = np.concatenate([one[1:] for one in ids]).astype(np.int64)
    weight = np.concatenate([one[1:] for one in weights])
    borders = np.cumsum([0, *(len(one) - 1 for one in ids)], dtype=np.int64)
    return (
        torch.from_numpy(inputs)[None],
        torch.from_numpy(targets),
        torch.from_numpy(weight),
        torch.from_numpy(borders),
    )


def loss_of(logits_TV: Tensor, targets_T: Tensor, weights_T: Tensor) -> tuple[Tensor, float]:
    """Weighted mean cross-entropy in nats: of all that has a weight, and of what the model is to say (1 or more)."""
    places = weights_T.nonzero()[:, 0]
    weights_P = weights_T[places]
    nats_P = functional.cross_entropy(logits_TV[places].float(), targets_T[places], reduction="none")
    said_P = weights_P * (weights_P >= 1)
    said = float((nats_P.detach() * said_P).sum() / said_P.sum())
    return (nats_P * weights_P).sum() / weights_P.sum(), said


def slowed(model: Model, optim: OptimConfig, share: float) -> list[torch.optim.Optimizer]:
    """The optimisers of a model whose embedding learns at `share` of the rate."""
    made = optimisers(model, optim)
    tables = {id(parameter) for name, parameter in model.named_parameters() if is_table(model, name)}
    for optimiser in made:
        for group in list(optimiser.param_groups):
            slow = [parameter for parameter in group["params"] if id(parameter) in tables]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in tables]
            if slow:
                optimiser.add_param_group({**group, "params": slow, "peak": group["peak"] * share})
    return made


class Learner:
    """One model's training, in one or several parts that together follow one schedule."""

    def __init__(
        self,
        model: Model,
        renamer: Renamer | None,
        recipe: Recipe,
        optim: OptimConfig | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """`optim` and `schedule` go before the recipe's, which are those of a habit."""
        self.model, self.tokens, self.loss = model, 0, math.nan
        self._renamer, self._recipe, self._step = renamer, recipe, 0
        self._schedule = schedule or recipe.schedule
        self._made = slowed(model, optim or recipe.optim, recipe.embedding_rate)
        self._said: deque[float] = deque(maxlen=100)

    def learn(
        self,
        lessons: Sequence[Lesson],
        steps: int,
        watch: Callable[[int, float, int], None] = lambda step, loss, tokens: None,
    ) -> None:
        """Train in place for so many steps.

        `watch` gets (step, loss, tokens) after each step: the loss of what the model is to say. Raises UserError where
        the loss is not finite.
        """
        recipe, parameters = self._recipe, list(self.model.parameters())
        device = parameters[0].device
        drawn = rows(lessons, self._renamer, recipe.batch_tokens, f"{recipe.seed} {self._step}", easy=not self._step)
        self.model.train()
        for _ in range(steps):
            inputs, targets, weights, borders = (part.to(device) for part in next(drawn))
            output = self.model(inputs, cu_seqlens=borders)
            loss, said = loss_of(output.logits[0], targets, weights)
            if not math.isfinite(value := float(loss.detach())):
                raise UserError(f"step {self._step + 1}: the loss is {value}; lower optim.lr")
            for parameter in parameters:
                parameter.grad = None
            torch.autograd.backward(loss)
            clip(parameters, recipe.optim.clip)
            set_rate(self._made, factor(self._schedule, self._step, recipe.steps))
            for optimiser in self._made:
                optimiser.step()
            self._step += 1
            self.tokens += len(targets)
            self._said.append(said)
            self.loss = sum(self._said) / len(self._said)
            watch(self._step, self.loss, self.tokens)
        self.model.eval()
