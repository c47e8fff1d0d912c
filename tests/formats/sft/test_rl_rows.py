"""Rows for reinforcement learning: token ids as the model had them, each written id masked in exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import rows

from fairtrial.core.trajectory import Trajectory, token_delta
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.sft.rl_rows import RL_ROWS

ids = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@st.composite
def runs(draw):
    """Model calls that extend an earlier one, begin anew, or change something in the middle."""
    sequences, calls, content = [], [], []
    for index in range(draw(st.integers(1, 5))):
        base = draw(st.sampled_from(sequences)) if sequences and draw(st.booleans()) else []
        prompt = [*base, *draw(ids)]
        if base and draw(st.integers(0, 3)) == 0:
            prompt[draw(st.integers(0, len(prompt) - 1))] = 99
        written = draw(st.lists(st.integers(100, 109), max_size=4))
        call = {"model": draw(st.sampled_from("mn")), "completion_ids": written}
        call["prompt"] = token_delta(prompt, sequences).model_dump(mode="json")
        if draw(st.booleans()):
            call["logprobs"] = [-float(number) for number in range(1, len(written) + 1)]
        sequences.append([*prompt, *written])
        calls.append(call)
        content.append({"class_": "message_action", "content": "x", "model_call": index})
    return {"id": "r", "content": content, "model_calls": calls, "reward": 1.0}


@settings(max_examples=200, deadline=None)
@given(runs())
def test_every_call_is_in_one_row_with_its_prompt_and_completion(run):
    trajectory = Trajectory.model_validate(run)
    found = list(RL_ROWS.encode(run, Notes()))
    seen = []
    for row in found:
        sequence = row["prompt_ids"] + row["completion_ids"]
        assert len(row["loss_mask"]) == len(sequence)
        written = set()
        for segment in row["segments"]:
            index, start, end = segment["call"], segment["start"], segment["end"]
            seen.append(index)
            assert tuple(sequence[:start]) == trajectory.prompt_ids(index)
            assert tuple(sequence[start:end]) == trajectory.model_calls[index].completion_ids
            assert trajectory.model_calls[index].model == row["model"]
            assert not written & set(range(start, end))
            written |= set(range(start, end))
            if row["logprobs"] is not None:
                offset = len(row["prompt_ids"])
                assert tuple(row["logprobs"][start - offset : end - offset]) == trajectory.model_calls[index].logprobs
        assert {place for place, learned in enumerate(row["loss_mask"]) if learned} == written
        without = any(trajectory.model_calls[segment["call"]].logprobs is None for segment in row["segments"])
        assert (row["logprobs"] is None) == without
    assert sorted(seen) == list(range(len(run["model_calls"])))
    total = sum(len(call["completion_ids"]) for call in run["model_calls"])
    assert sum(sum(row["loss_mask"]) for row in found) == total


def _call(prompt, written, **rest):
    return {"model": "m", "prompt": {"append": prompt}, "completion_ids": written, **rest}


def test_a_conversation_that_goes_on_is_one_row():
    run = {
        "id": "r",
        "content": [
            {"class_": "message_action", "content": "a", "model_call": 0, "reward": 0.5},
            {"class_": "message_action", "content": "b", "model_call": 1},
        ],
        "model_calls": [
            _call([1, 2], [3, 4], logprobs=[-0.1, -0.2], weights_version="w1", sampling={"temperature": 1.0}),
            _call([1, 2, 3, 4, 5], [6], logprobs=[-0.3], weights_version="w2", finish_reason="stop"),
        ],
        "reward": 2.0,
    }
    (row,) = RL_ROWS.encode(run, Notes())
    assert (row["prompt_ids"], row["completion_ids"]) == ([1, 2], [3, 4, 5, 6])
    assert row["loss_mask"] == [0, 0, 1, 1, 0, 1]
    assert row["logprobs"] == [-0.1, -0.2, 0.0, -0.3]
    assert row["reward"] == 2.0 and [part["reward"] for part in row["segments"]] == [0.5, None]
    assert [part["weights_version"] for part in row["segments"]] == ["w1", "w2"]
    assert row["segments"][0]["sampling"] == {"temperature": 1.0}


def test_a_rewritten_context_and_another_model_begin_rows_of_their_own():
    run = {
        "id": "r",
        "model_calls": [_call([1, 2], [3]), _call([1, 9, 3], [4]), {**_call([1, 2, 3], [5]), "model": "n"}],
    }
    assert [row["prompt_ids"] for row in RL_ROWS.encode(run, Notes())] == [[1, 2], [1, 9, 3], [1, 2, 3]]


def test_what_may_not_be_learned_from_is_masked_out():
    action = {"class_": "message_action", "content": "a", "model_call": 0, "loss": False}
    run = {"id": "r", "content": [action], "model_calls": [_call([1], [2, 3])]}
    (row,) = RL_ROWS.encode(run, Notes())
    assert row["loss_mask"] == [0, 0, 0]


def test_calls_without_token_ids_are_named():
    with pytest.raises(RowError, match="no token ids"):
        list(RL_ROWS.encode({"id": "r", "content": [], "model_calls": [{"model": "m"}]}, Notes()))
    notes = Notes()
    assert len(list(RL_ROWS.encode({"id": "r", "model_calls": [{"model": "m"}, _call([1], [2])]}, notes))) == 1
    assert notes.dropped == [("model call without token ids", "call 0 of m")]


@settings(max_examples=60, deadline=None)
@given(rows(loss=True))
def test_any_row_with_token_ids_can_be_written(run):
    if not any("completion_ids" in call for call in run.get("model_calls", ())):
        run.setdefault("model_calls", []).append(_call([1], [2]))
    assert list(RL_ROWS.encode(run, Notes()))
