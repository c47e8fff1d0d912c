"""Trajectories: token deltas give back every prompt exactly, and what does not fit together is refused."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fairtrial.core.trajectory import (
    ApiAction,
    MessageAction,
    ModelCall,
    TextObservation,
    TokenDelta,
    Trajectory,
    token_delta,
)

ids = st.lists(st.integers(0, 3), max_size=30)


def recorded(calls):
    """The trajectory of (prompt ids, completion ids) pairs, as an agent loop records it."""
    model_calls, sequences = [], []
    for prompt, completion in calls:
        model_calls.append(
            ModelCall(model="m", prompt=token_delta(prompt, sequences), completion_ids=tuple(completion))
        )
        sequences.append([*prompt, *completion])
    return Trajectory(id="x", model_calls=tuple(model_calls))


@given(st.lists(st.tuples(ids, ids), max_size=12))
def test_every_prompt_comes_back_from_its_delta(calls):
    trajectory = Trajectory.model_validate_json(recorded(calls).model_dump_json())
    assert [trajectory.prompt_ids(n) for n in range(len(calls))] == [tuple(prompt) for prompt, _ in calls]


@given(ids, st.lists(ids, max_size=8))
def test_the_delta_is_the_shortest_and_the_latest_of_equals(prompt, earlier):
    def shared(sequence):
        same = [a == b for a, b in zip(prompt, sequence, strict=False)]
        return same.index(False) if False in same else len(same)

    delta = token_delta(prompt, earlier)
    best = max((shared(sequence) for sequence in earlier), default=0)
    assert delta.keep == best and len(delta.append) == len(prompt) - best
    expected = max((n for n, sequence in enumerate(earlier) if shared(sequence) == best), default=None)
    assert delta.base == (expected if best else None)


def test_long_prompts_are_compared_past_the_block_boundaries():
    for length in (1023, 1024, 1025, 2048, 5000):
        base = list(range(length))
        assert token_delta(base, [base]).keep == length
        assert token_delta([*base, 7], [[*base, 8]]).keep == length
        assert token_delta([*base[:-1], -1], [base]).keep == length - 1


def test_a_chain_of_five_thousand_calls_is_stored_in_deltas_and_comes_back():
    draw, prompt, calls = random.Random(1), [1, 2, 3], []
    for n in range(5000):
        completion = [draw.randrange(50_000) for _ in range(3)]
        calls.append((tuple(prompt), completion))
        prompt = [*prompt, *completion, draw.randrange(50_000)]
        if n % 1000 == 999:
            prompt = prompt[:100]  # the context is folded: an earlier call is the better base
    trajectory = recorded(calls)
    stored = sum(len(call.prompt.append) for call in trajectory.model_calls)
    assert stored <= 5000 + 3, "one new id for each call"
    for n in (0, 1, 999, 1000, 2500, 4999):
        assert trajectory.prompt_ids(n) == calls[n][0]


def call(base=None, keep=0, append=(), completion=(9,)):
    return ModelCall(model="m", prompt=TokenDelta(base=base, keep=keep, append=append), completion_ids=completion)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        (lambda: [call(base=0, keep=1)], "not an earlier one"),
        (lambda: [call(append=(1,)), call(base=5, keep=1)], "not an earlier one"),
        (lambda: [call(append=(1, 2)), call(base=0, keep=4)], "keeps 4 ids of the 3 of call 0"),
        (lambda: [ModelCall(model="m"), call(base=0, keep=1)], "has no token ids"),
        (lambda: [call(keep=2)], "no earlier call"),
        (lambda: [call(base=-1)], "greater than or equal to 0"),
    ],
)
def test_a_delta_that_leads_nowhere_is_refused_when_it_is_made(calls, says):
    with pytest.raises(ValidationError, match=says):
        Trajectory(id="x", model_calls=tuple(calls()))


def test_a_call_without_token_ids_says_so_when_asked():
    with pytest.raises(ValueError, match="carries no token ids"):
        Trajectory(id="x", model_calls=(ModelCall(model="m"),)).prompt_ids(0)


@pytest.mark.parametrize("index", [1, -1])
def test_an_action_names_a_model_call_that_exists(index):
    with pytest.raises(ValidationError):
        Trajectory(id="x", content=(MessageAction(content="", model_call=index),), model_calls=(call(append=(1,)),))


def test_logprobs_belong_to_completion_ids():
    with pytest.raises(ValidationError, match="differ in length"):
        ModelCall(model="m", completion_ids=(1, 2), logprobs=(-0.5,))


def test_values_of_calls_keep_their_types_through_json():
    action = ApiAction(
        function="f", kwargs={"n": 1, "x": 1.5, "s": "1", "b": True, "l": [None, {"k": "é"}]}, call_id="1"
    )
    seen = TextObservation(content="ok\x00\ud7ff😀", source="environment", call_id="1")
    trajectory = Trajectory(id="x", content=(action, seen))
    again = Trajectory.model_validate_json(trajectory.model_dump_json())
    assert again == trajectory
    assert [type(value) for value in again.content[0].kwargs.values()] == [int, float, str, bool, list]
    assert list(again.actions()) == [action]
