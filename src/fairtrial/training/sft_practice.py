"""Evaluation during training by real episodes: the current weights act in a world and are graded as in a study."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fairtrial.agents.episode import ORACLE, EpisodeArm, EpisodeSuite, EpisodeTrial, EpisodeWorker, open_worker
from fairtrial.core.clock import Clock, Timer
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json, seed
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.record import BlobRef, Outcome, Record, TrialKey
from fairtrial.core.trial import Job, TrialContext
from fairtrial.models.model import Model
from fairtrial.training.sft_learners import Learner
from fairtrial.training.sft_settings import Practice, SftConfig

_ARM, _MODEL = "learner", "learner:current"


class Ground:
    """A world with its validation episodes, for round after round."""

    def __init__(self, config: SftConfig, settings: Practice, base: Path, clock: Clock, where: str) -> None:
        """Raises UserError for settings that do not fit.

        Args:
            config: Of the run; its seed is that of sampling and of the world's latencies.
            settings: World, arm and how many episodes.
            base: Where relative paths start from.
            clock: For limits on seconds.
            where: What messages call the configuration.
        """
        if "model" in settings.arm:
            raise UserError(f"{where}: practice.arm: leave out model; it is the one that is trained")
        table = {"sampling": {"temperature": 0.0}, "limit": settings.limit} | settings.suite
        suite = parse(EpisodeSuite, table, where=f"{where}: practice.suite")
        arm = parse(EpisodeArm, {"model": _MODEL} | settings.arm, where=f"{where}: practice.arm")
        self._arm = arm
        self._plain = arm.model_copy(update={"model": ORACLE})
        EpisodeTrial().check(suite, {_ARM: arm.model_copy(update={"model": config.model})}, base)
        self._suite, self._base, self._clock, self._seed = suite, base, clock, config.seed
        self._at_once = settings.at_once

    def play(self, learner: Learner) -> Mapping[str, Any]:
        """One round. Returns the mean of each score, the number of episodes, and how those ended that failed."""
        threads = torch.get_num_threads()
        try:
            records = asyncio.run(self._round(learner.playing(threads)))
        finally:
            torch.set_num_threads(threads)
        causes = Counter(record.cause or "unknown" for record in records if record.outcome is not Outcome.SCORED)
        names = sorted({name for record in records for name in record.scores})
        scores = {name: sum(record.scores.get(name, 0.0) for record in records) / len(records) for name in names}
        return {"em": 0.0, **scores, "episodes": len(records), "failed": dict(causes.most_common())}

    async def _round(self, model: Model) -> list[Record]:
        settings = {
            "suite": self._suite.model_dump(mode="json"),
            "arms": {_ARM: self._plain.model_dump(mode="json")},
            "base": str(self._base),
        }
        try:
            opened = open_worker(settings)
        except BaseException:
            await model.close()
            raise
        models = {**opened.models, canonical_json(_MODEL): model}
        worker = replace(opened, arms={_ARM: self._arm}, models=models)
        try:
            free = asyncio.Semaphore(self._at_once)
            return list(await asyncio.gather(*(self._one(worker, name, free) for name in worker.episodes)))
        finally:
            await worker.close()

    async def _one(self, worker: EpisodeWorker, name: str, free: asyncio.Semaphore) -> Record:
        async with free:
            key = TrialKey(arm=_ARM, task=name, repeat=0, attempt=1)
            job = Job(key, seed(self._seed, name, 0, "sampling"), self._seed)
            context = TrialContext(self._clock, Timer(self._clock), Meter(Limits()), _Nowhere())
            return await worker.run(job, context)


class _Nowhere:
    """Logs of these episodes are not kept."""

    def put(self, content: bytes) -> BlobRef:
        """Their digest and size."""
        return BlobRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
