"""The embedded model as a `Model`: each request goes to the small model that was trained for such requests.

The habits share the tokenizer, which never changes, and nothing else: each has weights, a batch and kept prefixes of
its own. One that is never asked costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from fairtrial.core.clock import Timer
from fairtrial.models.embedded import routing
from fairtrial.models.embedded.index import Index
from fairtrial.models.embedded.kind import TinySettings
from fairtrial.models.model import Delta, Feature, Pair, Reply, Request, Score
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.native.model import NativeModel, digest
from fairtrial.nn import hub
from fairtrial.nn.tokenizer import Tokenizer

NAME = "tiny"
_FEATURES: frozenset[Feature] = frozenset(get_args(Feature))
_PREFIX_MIB = 128
"""Of each habit that is asked."""
_TURNS = threading.Lock()
"""All habits of a process take turns: a study with seven of them took half the time that it took with all at once."""


class EmbeddedModel:
    """Native models by habit, each opened when it is first asked."""

    def __init__(self, folder: Path, index: Index, settings: TinySettings) -> None:
        self._folder, self._index, self._settings = folder, index, settings
        self._rules = {name: frozenset(routing.rule_lines(habit.rules)) for name, habit in index.habits.items()}
        self._opened: dict[str, NativeModel] = {}
        self._tokenizer: Tokenizer | None = None
        self._opening = threading.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        """With the habit where it is always the same; replies name the habit that answered."""
        return NAME if self._settings.habit is None else f"{NAME}:{self._settings.habit}"

    @property
    def features(self) -> frozenset[Feature]:
        """Everything, as native models."""
        return _FEATURES

    @property
    def context(self) -> int:
        """Tokens that prompt and reply may have together, for the habit that takes most; others refuse earlier."""
        names = [self._settings.habit] if self._settings.habit is not None else list(self._index.habits)
        return max(self._native(name).context for name in names)

    @property
    def opened(self) -> frozenset[str]:
        """Habits whose weights are in memory."""
        return frozenset(self._opened)

    def habit(self, request: Request) -> str:
        """The habit that answers a request (`routing.choose`)."""
        if self._settings.habit is not None:
            return self._settings.habit
        return routing.choose(routing.asked_lines(request), self._rules, self._index.default)

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """See `Model.generate`. Raises UserError, too, for weights that cannot be read."""
        model = await self._model(self.habit(request))
        return await model.generate(request, on_delta=on_delta, timer=timer)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """See `Model.score`. By the habit "text" where there is one, else by the default."""
        model = await self._model(self._settings.habit or self._index.scoring)
        return await model.score(pairs)

    async def close(self) -> None:
        """See `Model.close`."""
        for model in await asyncio.to_thread(self._end):
            await model.close()

    async def _model(self, habit: str) -> NativeModel:
        found = None if self._closed else self._opened.get(habit)
        return found or await asyncio.to_thread(self._open, habit)

    def _open(self, habit: str) -> NativeModel:
        """Read the weights of a habit, unless somebody else just did."""
        with self._opening:
            if self._closed:
                raise RuntimeError("the model was closed")
            if habit not in self._opened:
                if self._tokenizer is None:
                    self._tokenizer = Tokenizer.load(self._folder / self._index.tokenizer)
                settings = self._native(habit)
                folder = Path(settings.path)
                self._opened[habit] = NativeModel(
                    hub.load(folder, mtp=False),
                    self._tokenizer,
                    settings,
                    name=f"{NAME}:{habit}",
                    weights_version=digest(folder),
                    turns=_TURNS,
                )
            return self._opened[habit]

    def _native(self, habit: str) -> NativeSettings:
        entry, own = self._index.habits[habit], self._settings
        limit: dict[str, Any] = {} if entry.context is None else {"context": entry.context}
        return NativeSettings(
            path=str(self._folder / entry.folder),
            max_batch=own.max_batch,
            threads=own.threads,
            exact=own.exact,
            prefix_mib=_PREFIX_MIB,
            **limit,
        )

    def _end(self) -> list[NativeModel]:
        with self._opening:
            self._closed = True
            models = list(self._opened.values())
            self._opened.clear()
            return models
