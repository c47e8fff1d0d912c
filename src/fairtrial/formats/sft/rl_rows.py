"""Rows for reinforcement learning: the very token ids that the model read and wrote, never tokenised again.

Calls of one model that extend each other (a prompt that is exactly an earlier call's prompt and completion, and more)
share a row; any other call starts a row of its own. Per row:

- `prompt_ids`: the first call's prompt; `completion_ids`: everything after it, later prompts' additions included.
- `loss_mask` (length P + C): 1 exactly at ids that the model wrote and may learn from.
- `logprobs` (length C): of the ids that the model wrote, 0.0 elsewhere; null where a call of the row has none.
- `reward`: of the run; `segments`: for each call its index, `start` and `end` in prompt + completion ids, reward of its
  actions, weights_version, sampling, finish_reason.

Actions that may not be learned from (`loss` false) have their call masked out. Calls without token ids are left out
with a note; RowError where there are none with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fairtrial.core.trajectory import ModelCall, Trajectory
from fairtrial.formats.format import Format, Notes, Row, RowError, check
from fairtrial.formats.sft.conversation import likes_nothing


@dataclass(slots=True)
class _Sequence:
    """Calls that extend each other."""

    model: str
    prompt: int
    """Length of the first prompt."""
    ids: list[int]
    mask: list[int]
    logprobs: list[float] | None
    segments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def _encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
    trajectory = check(row)
    if trajectory.subagents:
        notes.drop("run of a sub-agent", ", ".join(run.id for run in trajectory.subagents))
    sequences: list[_Sequence] = []
    for index, call in enumerate(trajectory.model_calls):
        if call.prompt is None or call.completion_ids is None:
            notes.drop("model call without token ids", f"call {index} of {call.model}")
            continue
        _place(sequences, trajectory, index, call)
    if not sequences:
        raise RowError("no token ids: its model calls do not say what the model read and wrote")
    for number, sequence in enumerate(sequences):
        yield {
            "id": f"{trajectory.id}-{number}",
            "trajectory": trajectory.id,
            "model": sequence.model,
            "prompt_ids": sequence.ids[: sequence.prompt],
            "completion_ids": sequence.ids[sequence.prompt :],
            "loss_mask": sequence.mask,
            "logprobs": None if sequence.logprobs is None else sequence.logprobs[sequence.prompt :],
            "reward": trajectory.reward,
            "segments": sequence.segments,
        }


def _place(sequences: list[_Sequence], trajectory: Trajectory, index: int, call: ModelCall) -> None:
    """Append a call to the latest sequence that its prompt extends, else begin one."""
    prompt = list(trajectory.prompt_ids(index))
    written = call.completion_ids or ()
    sequence = next((known for known in reversed(sequences) if _extends(prompt, known, call.model)), None)
    if sequence is None:
        sequence = _Sequence(call.model, len(prompt), [], [], [])
        sequences.append(sequence)
    start = len(prompt)
    added = start - len(sequence.ids)
    rewards, learn = _judged(trajectory, index)
    sequence.ids += prompt[len(sequence.ids) :]
    sequence.ids += written
    sequence.mask += [0] * added + [int(learn)] * len(written)
    if sequence.logprobs is not None:
        known = call.logprobs
        sequence.logprobs = None if known is None else [*sequence.logprobs, *[0.0] * added, *known]
    sequence.segments.append(
        {
            "call": index,
            "start": start,
            "end": start + len(written),
            "reward": sum(rewards) if rewards else None,
            "weights_version": call.weights_version,
            "sampling": call.sampling,
            "finish_reason": call.finish_reason,
        }
    )


def _extends(prompt: list[int], sequence: _Sequence, model: str) -> bool:
    length = len(sequence.ids)
    return sequence.model == model and length <= len(prompt) and prompt[:length] == sequence.ids


def _judged(trajectory: Trajectory, index: int) -> tuple[list[float], bool]:
    """Rewards of the actions of a call, and whether it may be learned from."""
    rewards: list[float] = []
    learn = True
    for action in trajectory.actions():
        if action.model_call == index:
            learn = learn and action.loss is not False
            if action.reward is not None:
                rewards.append(action.reward)
    return rewards, learn


RL_ROWS = Format(
    name="rl-rows",
    title="rows for reinforcement learning (token ids, log probabilities, rewards, loss mask)",
    likes=likes_nothing,
    encode=_encode,
    kind="export",
)
