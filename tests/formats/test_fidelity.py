"""Fidelity counts what a user would see: each planted change is found, under its field, and nothing else is."""

import copy

import pytest
from hypothesis import given, settings
from strategies import OFF, rows

from fairtrial.formats.adp import ADP, ADP_V1
from fairtrial.formats.atif import ATIF
from fairtrial.formats.fidelity import Fidelity, compare, round_trip, there_and_back
from fairtrial.formats.format import Format, RowError
from fairtrial.formats.own import OWN

ROW = {
    "id": "t",
    "content": [
        {"class_": "text_observation", "content": "Find it.", "source": "user"},
        {
            "class_": "api_action",
            "function": "search",
            "kwargs": {"query": "it", "pages": [1, 2]},
            "description": "I look.",
            "call_id": "c",
        },
        {"class_": "text_observation", "content": "found", "source": "environment", "call_id": "c"},
        {"class_": "code_action", "language": "bash", "content": "cat it"},
        {"class_": "text_observation", "content": "it", "source": "environment"},
        {"class_": "message_action", "content": "Here it is."},
    ],
    "details": {"task": "x"},
    "reward": 1.0,
}


def changed(**places):
    row = copy.deepcopy(ROW)
    for index, fields in places.items():
        for key, value in fields.items():
            item = row["content"][int(index[1:])]
            if value is None:
                del item[key]
            else:
                item[key] = value
    return row


def nonzero(counts: Fidelity):
    return {name: dict(getattr(counts, name)) for name in ("rewritten", "dropped", "invented") if getattr(counts, name)}


def test_equal_rows_are_exact():
    counts = compare(ROW, copy.deepcopy(ROW))
    assert counts.is_exact()
    assert counts.shares() == (1.0, 0.0, 0.0, 0.0)
    assert counts.kept["api_action.kwargs"] == 2
    assert counts.kept["details.task"] == 1


def test_planted_changes_are_found_under_their_field():
    assert nonzero(compare(ROW, changed(_1={"description": "Looking"}))) == {"rewritten": {"api_action.description": 1}}
    assert nonzero(compare(ROW, changed(_2={"call_id": None}))) == {"dropped": {"text_observation.call_id": 1}}
    assert nonzero(compare(ROW, changed(_5={"reasoning": "hm"}))) == {"invented": {"message_action.reasoning": 1}}
    assert nonzero(compare(ROW, changed(_1={"kwargs": {"query": "it", "pages": "[1, 2]"}}))) == {
        "rewritten": {"api_action.kwargs": 1}
    }
    assert nonzero(compare(ROW, {**ROW, "details": {}, "reward": 0.5})) == {
        "rewritten": {"reward": 1},
        "dropped": {"details.task": 1},
        "invented": {"details": 1},
    }


def test_a_dropped_item_costs_its_own_fields_only():
    short = copy.deepcopy(ROW)
    del short["content"][1]
    counts = compare(ROW, short)
    assert counts.dropped.total() == 6 and not counts.invented and not counts.rewritten
    assert compare(short, ROW).invented.total() == 6


def test_code_that_became_an_argument_is_rewritten():
    row = copy.deepcopy(ROW)
    row["content"][3] = {"class_": "api_action", "function": "execute_bash", "kwargs": {"command": "cat it"}}
    counts = compare(ROW, row)
    assert counts.rewritten == {"code_action.class_": 1, "code_action.content": 1}
    assert counts.dropped == {"code_action.language": 1}
    assert counts.invented == {"api_action.function": 1}


def test_a_number_that_became_text_or_truth_is_rewritten():
    before, after = {"id": "t", "details": {"n": 1}}, {"id": "t", "details": {"n": True}}
    assert compare(before, after).rewritten == {"details.n": 1}


def test_what_a_format_keeps_for_itself_is_not_vocabulary():
    counts = compare(ROW, changed(_0={"extra": {"adp-v1": {"keys": ["content"]}}}))
    assert counts.invented and not counts.is_exact()
    assert counts.vocabulary().is_exact()


@settings(max_examples=60)
@given(rows(**dict.fromkeys(OFF, True)), rows())
def test_counts_add_up(before, after):
    there, back = compare(before, after), compare(after, before)
    fields_before = there.kept.total() + there.rewritten.total() + there.dropped.total()
    fields_after = back.kept.total() + back.rewritten.total() + back.dropped.total()
    everything = compare(before, before)
    assert everything.is_exact() and everything.kept.total() == fields_before
    assert compare(after, after).kept.total() == fields_after
    assert min(*there.shares(), *back.shares()) >= 0


@settings(max_examples=60)
@given(rows())
def test_round_trips_say_what_each_format_holds(row):
    assert round_trip(OWN, row).is_exact()
    assert round_trip(ATIF, row).is_exact()
    for format in (ADP_V1, ADP):
        counts = round_trip(format, row).vocabulary()
        assert counts.kept["message_action.content"] == sum(i["class_"] == "message_action" for i in row["content"])
        assert not counts.dropped["text_observation.content"]
    assert not round_trip(ADP, row).dropped["message_action.reward"]


def test_a_format_of_one_way_has_no_round_trip():
    with pytest.raises(RowError):
        round_trip(Format(name="x", title="x", likes=lambda value: 0), ROW)
    assert there_and_back(OWN, ROW) == ROW
