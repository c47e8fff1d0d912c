"""A file of training samples, whole or not at all, with an account of what was kept and why the rest was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.samples.filters import Filters, balanced, length, parallel, refusal
from fairtrial.agents.samples.hindsight import strangers
from fairtrial.agents.samples.runs import REPLAYED, Purpose, Run
from fairtrial.agents.samples.sample import Sample, Weights, sample_of
from fairtrial.agents.samples.sources import runs_in
from fairtrial.agents.samples.stretches import BytesOf, samples_of
from fairtrial.core.errors import UserError
from fairtrial.formats.source import values
from fairtrial.store import packed_file

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Options:
    """How samples are made."""

    arm: str | None = None
    """Of a run directory: only this arm."""
    policy: str | dict[str, Any] | None = None
    """Show the runs under this policy (append, last-n, clear-results); None: as they were played."""
    filters: Filters = field(default_factory=Filters)
    weights: Weights = field(default_factory=Weights)
    readers: bool = False
    """Whether readings (`read(question, document)`) are samples too."""
    bytes_of: BytesOf | None = None
    """What each token id stands for, for runs that do not say it."""
    some: bool = False
    """Refuse (UserError) a source that gives no sample; nothing is written then."""

    def purposes(self) -> tuple[Purpose, ...]:
        """Which model calls are learned."""
        return ("turn", "summary", "reader") if self.readers else ("turn", "summary")


@dataclass(slots=True)
class Summary:
    """What was kept, and why the rest was not."""

    runs: int = 0
    kept_runs: int = 0
    samples: int = 0
    with_ids: int = 0
    """Samples with token ids."""
    learned_turns: int = 0
    tokens: int = 0
    """Of all samples, estimated where there are no ids."""
    learned_characters: Counter[str] = field(default_factory=Counter[str])
    """By kind, where the weight is not 0."""
    dropped_runs: Counter[str] = field(default_factory=Counter[str])
    dropped_turns: Counter[str] = field(default_factory=Counter[str])
    """Of runs that were not dropped."""
    dropped_samples: Counter[str] = field(default_factory=Counter[str])
    parallel_runs: int = 0
    """Of the kept ones: with a plan whose calls could run at the same time."""
    plans: int = 0
    """With queries, of all runs, dropped or not."""
    hindsight: int = 0
    """Plans of all runs whose level-0 calls name what nobody could know yet."""
    hindsight_examples: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "runs": self.runs,
            "kept_runs": self.kept_runs,
            "samples": self.samples,
            "with_ids": self.with_ids,
            "learned_turns": self.learned_turns,
            "tokens": self.tokens,
            "learned_characters": dict(sorted(self.learned_characters.items())),
            "dropped_runs": dict(self.dropped_runs.most_common()),
            "dropped_turns": dict(self.dropped_turns.most_common()),
            "dropped_samples": dict(self.dropped_samples.most_common()),
            "parallel_runs": self.parallel_runs,
            "plans": self.plans,
            "hindsight": self.hindsight,
            "hindsight_examples": list(self.hindsight_examples),
        }

    def count(self, run: Run, samples: Sequence[Sample], filters: Filters) -> None:
        """Add what was kept of a run."""
        self.kept_runs += 1
        self.parallel_runs += parallel(run)
        for sample in samples:
            self.samples += 1
            self.with_ids += sample.ids is not None
            self.tokens += length(sample, filters)
            learned = [segment for segment in sample.segments if segment.weight]
            self.learned_turns += len({segment.message for segment in learned})
            for segment in learned:
                self.learned_characters[segment.kind] += segment.end - segment.start


def write_samples(source: Path, out: Path, options: Options | None = None) -> Summary:
    """Write the samples of a source to `out`, one JSON object a line (`.zst` compresses).

    The file appears when it is complete; an older one is replaced. Raises UserError for a source that cannot be read
    and for settings that do not fit it.
    """
    options = options or Options()
    if out.name.removesuffix(".zst").rpartition(".")[2] != "jsonl":
        raise UserError(f"{out}: name it .jsonl (or .jsonl.zst)")
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: this is the file that is read; name another one")
    policy = _policy(options.policy)
    chosen = _chosen(source, options, policy)
    summary = Summary()
    with packed_file(out) as file:
        for index, run in enumerate(runs_in(source, arm=options.arm, policy=policy)):
            samples = _samples(run, options, summary)
            if not samples:
                continue
            if chosen is not None and index not in chosen:
                summary.dropped_runs["not drawn for the share of parallel runs"] += 1
                continue
            summary.count(run, samples, options.filters)
            for sample in samples:
                file.write(orjson.dumps(sample.to_json(), option=orjson.OPT_APPEND_NEWLINE))
        if options.some and not summary.samples:
            raise UserError(no_targets(source, summary.dropped_runs + summary.dropped_turns + summary.dropped_samples))
    return summary


def no_targets(sources: object, left_out: Counter[str]) -> str:
    """What to say where nothing is left to learn from; `left_out`: what was dropped, by reason."""
    reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common(4)) or "it is empty"
    return f"{sources}: no usable targets to learn from ({reasons})"


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file that `write_samples` wrote. Raises UserError where ids are not those of the rollout."""
    for entry in values(path):
        if entry.problem is not None:
            raise UserError(f"{path}:{entry.line}: {entry.problem}")
        yield sample_of(entry.value)


def _samples(run: Run, options: Options, summary: Summary) -> list[Sample]:
    """The samples of a run; none where it is dropped, which is counted."""
    filters = options.filters
    summary.runs += 1
    strange = list(strangers(run, filters.query_tools))
    summary.plans += len(strange)
    for number, words in strange:
        if words:
            summary.hindsight += 1
            if len(summary.hindsight_examples) < _SHOWN:
                summary.hindsight_examples.append(f"{run.id}, plan {number}: {', '.join(words)}")
    reason = refusal(run, filters, [words for _, words in strange])
    if reason is not None:
        summary.dropped_runs[reason] += 1
        return []
    kept: list[Sample] = []
    made = samples_of(
        run,
        options.weights,
        summary.dropped_turns,
        purposes=options.purposes(),
        repairs=filters.repairs == "keep",
        bytes_of=options.bytes_of,
        score=run.scores.get(filters.score),
    )
    for sample in made:
        if filters.max_tokens is not None and length(sample, filters) > filters.max_tokens:
            summary.dropped_samples[f"more than {filters.max_tokens} tokens"] += 1
        else:
            kept.append(sample)
    if not kept:
        summary.dropped_runs["no turn is left"] += 1
    return kept


def _chosen(source: Path, options: Options, policy: ContextPolicy | None) -> set[int] | None:
    """Numbers of the runs that were drawn so that the share of parallel ones is as wanted; None: all."""
    share = options.filters.parallel_share
    if share is None:
        return None
    ignored = Summary()
    left = [
        (index, run.id, parallel(run))
        for index, run in enumerate(runs_in(source, arm=options.arm, policy=policy))
        if _samples(run, options, ignored)
    ]
    kept = balanced([(id, kind) for _, id, kind in left], share, options.filters.seed)
    return {index for (index, _, _), keep in zip(left, kept, strict=True) if keep}


def _policy(spec: str | dict[str, Any] | None) -> ContextPolicy | None:
    """The policy to show runs under. Raises UserError for one that needs what the model did not write."""
    if spec is None:
        return None
    policy = open_policy(spec, Estimate())
    if not isinstance(policy, REPLAYED):
        raise UserError(
            "policy: its prompts hold folds or summaries that the model would have to have written; "
            "take append, last-n or clear-results, or leave it out: runs are shown as they were played"
        )
    return policy
