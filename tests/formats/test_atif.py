"""ATIF: files come back as they were, every row survives, and what is written satisfies ATIF's own rules."""

import copy
import json

import pytest
from casefiles import CASES, case
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import OFF, damaged, json_values, rows

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.atif import ATIF, ATIF_1_8
from fairtrial.formats.format import Notes, RowError, decode

PUBLISHED = sorted(path.parent.name for path in (CASES / "adp").glob("*/sample_std.json")) or ["swe-smith"]


def read(value, notes=None):
    row = decode(ATIF, value, notes or Notes())
    assert isinstance(row, dict)
    return row


def written(row, notes=None, format=ATIF):
    [value] = format.encode(row, notes or Notes())
    return json.loads(json.dumps(value))


def keeps_the_rules(value):
    """ATIF's rules, as its specification says them (the package checks more where it is installed)."""
    assert [step["step_id"] for step in value["steps"]] == list(range(1, len(value["steps"]) + 1))
    for step in value["steps"]:
        assert step["source"] in ("system", "user", "agent")
        assert isinstance(step["message"], (str, list))
        if step["source"] != "agent":
            assert not step.keys() & {"model_name", "reasoning_content", "tool_calls", "metrics"}
        calls = {call["tool_call_id"] for call in step.get("tool_calls", ())}
        for result in step.get("observation", {"results": []})["results"]:
            if "tool_calls" in step and result.get("source_call_id") is not None:
                assert result["source_call_id"] in calls
    for below in value.get("subagent_trajectories", ()):
        assert below["trajectory_id"]
        keeps_the_rules(below)


EVERYTHING = rows(**dict.fromkeys(OFF, True))


@settings(max_examples=250)
@given(EVERYTHING | rows() | rows(call_ids=False, result_images=True))
def test_every_row_comes_back(row):
    before = copy.deepcopy(row)
    value = written(row)
    keeps_the_rules(value)
    assert read(value) == before
    assert row == before, "writing leaves the row alone"


@settings(max_examples=100)
@given(EVERYTHING)
def test_the_package_accepts_what_is_written(row):
    atif = pytest.importorskip("atif", reason="the package atif (an oracle) is not installed")
    atif.Trajectory.model_validate(written(row))
    atif.Trajectory.model_validate(written(row, format=ATIF_1_8))


@settings(max_examples=50)
@given(rows(model_calls=True))
def test_reading_and_writing_again_changes_nothing(row):
    value = written(row, format=ATIF_1_8)
    assert value["schema_version"] == "ATIF-v1.8"
    assert written(read(value)) == value


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trajectories_go_through_atif_unchanged(name):
    for source in case(f"adp/{name}/sample_std.json"):
        row = decode(ADP_V1, source, Notes())
        value = written(row)
        keeps_the_rules(value)
        assert read(value) == row
        assert list(ADP_V1.encode(read(value), Notes())) == [source]


def step(number, source="agent", message="", **fields):
    return {"step_id": number, "source": source, "message": message, **fields}


def run(*steps, **root):
    return {"schema_version": "ATIF-v1.7", "agent": {"name": "coder", "version": "2.1"}, "steps": list(steps), **root}


FULL = run(
    step(1, "system", "Be brief."),
    step(
        2,
        "user",
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"media_type": "image/jpeg", "path": "images/a.jpg"}},
        ],
        timestamp="2026-01-02T03:04:05Z",
    ),
    step(
        3,
        message="Looking.",
        model_name="other-model",
        reasoning_effort="high",
        reasoning_content="I should look.",
        llm_call_count=2,
        tool_calls=[
            {"tool_call_id": "a", "function_name": "look", "arguments": {"deep": True}, "extra": {"timeout": 5}},
            {"tool_call_id": "b", "function_name": "delegate", "arguments": {}},
        ],
        observation={
            "results": [
                {"source_call_id": "b", "subagent_trajectory_ref": [{"trajectory_id": "below"}], "extra": {"s": 1}},
                {
                    "source_call_id": "a",
                    "content": [
                        {"type": "text", "text": "A cat."},
                        {"type": "image", "source": {"media_type": "image/png", "path": "b.png"}},
                    ],
                },
                {"content": "A hook ran."},
            ]
        },
        metrics={
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "cached_tokens": 0,
            "cost_usd": 0.25,
            "prompt_token_ids": [1, 2, 3],
            "completion_token_ids": [4, 5],
            "logprobs": [-0.5, -0.25],
            "extra": {"reasoning_tokens": 1},
        },
        extra={"turn": 1},
    ),
    step(4, message="A cat.", metrics={"prompt_token_ids": [1, 2, 3, 4, 5, 6], "completion_token_ids": [7]}),
    step(5, message="Copied.", is_copied_context=True),
    step(6, observation={"results": [{"content": "dispatched"}]}, llm_call_count=0),
    step(7, "system", observation={"results": [{"content": "context was cut"}]}, extra={"event": "compaction"}),
    session_id="s",
    trajectory_id="t",
    notes="by hand",
    final_metrics={"total_prompt_tokens": 10, "extra": {"x": 1}},
    continued_trajectory_ref="next.json",
    subagent_trajectories=[run(step(1, "user", "sub"), step(2, message="done"), trajectory_id="below")],
    extra={"k": "v"},
    future_field=[1],
)
FULL["agent"] |= {
    "model_name": "some-model",
    "tool_definitions": [{"type": "function", "function": {"name": "look"}}],
    "extra": {"cwd": "/"},
}


def test_a_file_that_uses_everything_comes_back():
    notes = Notes()
    row = read(copy.deepcopy(FULL), notes)
    assert notes.flaws == []
    assert written(row) == FULL
    assert written(row, format=ATIF_1_8)["schema_version"] == "ATIF-v1.8"


def test_what_a_file_says_is_found_in_the_row():
    row = read(FULL)
    assert row["id"] == "t"
    assert row["tools"] == FULL["agent"]["tool_definitions"]
    items = row["content"]
    assert [item["class_"] for item in items[:4]] == [
        "text_observation",
        "text_observation",
        "image_observation",
        "api_action",
    ]
    assert items[2]["joined"] and items[2]["content"] == "images/a.jpg"
    look, delegate, of_b, of_a, picture, hook = items[3:9]
    assert look["description"] == "Looking." and look["reasoning"] == "I should look."
    assert delegate["joined"] and look["model_call"] == delegate["model_call"] == 0
    assert (of_b["call_id"], of_b["name"], of_b["subagents"]) == ("b", "delegate", ["below"])
    assert (of_a["name"], picture["joined"], picture["call_id"]) == ("look", True, "a")
    assert "call_id" not in hook
    first, second = row["model_calls"]
    assert first["model"] == "other-model" and second["model"] == "some-model"
    assert first["usage"] == {
        "calls": 2,
        "input_tokens": 10,
        "output_tokens": 3,
        "cached_tokens": 0,
        "cost_usd": 0.25,
    }
    assert second["prompt"] == {"base": 0, "keep": 5, "append": [6]}
    [copied] = [item for item in items if item.get("content") == "Copied."]
    assert copied["loss"] is False
    assert row["subagents"][0]["id"] == "below"


@pytest.mark.parametrize(
    "value",
    [
        run(step(1, "user", "x", model_name=None, timestamp=None, extra=None, observation=None)),
        run(step(1, message="x", metrics=None, model_name=None, tool_calls=[], reasoning_content=None)),
        run(step(1, message="x", metrics={}, model_name="m")),
        run(step(1, message="x", model_name="m", metrics=None)),
        run(step(1, message="", tool_calls=None, observation={"results": []})),
        run(step(1, message=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])),
        run(step(1, "user", [{"type": "text", "text": "one"}])),
        run(step(1, "user", [{"type": "audio", "source": {"media_type": "audio/wav", "path": "a.wav"}}])),
        run(step(1, "user", [])),
        run(step(1, "user", "x", observation={"results": [{"content": "y"}], "extra": {"z": 1}}), step(2, "user", "w")),
        run(step(1, message="x", observation={"results": [{"source_call_id": "gone", "content": None}]})),
        run(
            step(
                1, message="x", tool_calls=[{"tool_call_id": "a", "function_name": "f", "arguments": {}, "extra": None}]
            ),
            step(2, observation={"results": [{"source_call_id": "a", "content": "late", "extra": None}]}),
        ),
        run(
            step(1, "system", observation={"results": [{"content": "a"}]}),
            step(2, "system", observation={"results": [{"content": "b"}]}),
        ),
        run(
            step(
                1,
                message="x",
                metrics={"prompt_tokens": None, "cost": 0.1, "logprobs": [{"t": 1}], "completion_token_ids": [1]},
            )
        ),
        run(step(1, message="x"), session_id="only-session"),
        run(step(1, message="x"), trajectory_id="only-id", subagent_trajectories=[], extra=None),
        run(step(1, message="x"), session_id=None),
        run(step(1, message="x"), schema_version="ATIF-v1.4", session_id="s"),
        run(
            step(
                1,
                message="",
                tool_calls=[
                    {
                        "tool_call_id": "c",
                        "function_name": "execute_bash",
                        "arguments": {"command": "ls"},
                        "extra": {"adp_class": "code_action", "language": "bash"},
                    }
                ],
                observation={
                    "results": [
                        {
                            "source_call_id": "c",
                            "content": "",
                            "extra": {
                                "adp_class": "web_observation",
                                "web": {"axtree": "[1]", "url": None, "html": None},
                            },
                        }
                    ]
                },
            )
        ),
    ],
)
def test_odd_but_legal_files_come_back(value):
    before = copy.deepcopy(value)
    row = read(value)
    assert written(row) == before
    assert value == before


def test_upstreams_way_to_write_code_and_pages_is_read():
    extra = {"adp_class": "code_action", "language": "bash"}
    call = {"tool_call_id": "c", "function_name": "execute_bash", "arguments": {"command": "ls"}, "extra": extra}
    web = {"adp_class": "web_observation", "web": {"axtree": "[1]", "url": None, "html": None, "viewport_size": [1, 2]}}
    result = {"source_call_id": "c", "content": "", "extra": web}
    code, page = read(run(step(1, tool_calls=[call], observation={"results": [result]})))["content"]
    assert (code["language"], code["content"]) == ("bash", "ls")
    assert (page["axtree"], page["viewport_size"], page["call_id"]) == ("[1]", [1, 2], "c")


def test_code_becomes_a_call_of_the_languages_tool_and_comes_back():
    for language, tool in (("bash", "execute_bash"), ("py", "execute_ipython_cell"), ("mysql", "execute_code")):
        row = {"id": "t", "content": [{"class_": "code_action", "language": language, "content": "x", "call_id": "c"}]}
        value = written(row)
        assert value["steps"][0]["tool_calls"][0]["function_name"] == tool
        assert read(value) == row


def test_malformed_arguments_and_missing_ids_are_carried():
    row = {
        "id": "t",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}, "malformed": '{"a": '},
            {"class_": "api_action", "function": "g", "kwargs": {}, "joined": True},
            {"class_": "text_observation", "content": "1", "source": "environment"},
            {"class_": "text_observation", "content": "2", "source": "environment"},
        ],
    }
    notes = Notes()
    value = written(row, notes)
    [step_] = value["steps"]
    ids = [call["tool_call_id"] for call in step_["tool_calls"]]
    assert [result["source_call_id"] for result in step_["observation"]["results"]] == ids
    assert [text for _, text in notes.invented] == ids
    assert read(value) == row


def test_a_late_result_stands_with_its_call():
    row = {
        "id": "t",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}, "call_id": "a"},
            {"class_": "text_observation", "content": "wait", "source": "user"},
            {"class_": "text_observation", "content": "1", "source": "environment", "call_id": "a"},
        ],
    }
    notes = Notes()
    value = written(row, notes)
    assert value["steps"][0]["observation"]["results"][0]["content"] == "1"
    assert notes.rewritten


def test_defects_are_told_and_the_row_is_kept():
    broken = run(
        step(3, message="x", tool_calls=[{"tool_call_id": "a", "function_name": "f", "arguments": "{'no': json}"}]),
        step(2, tool_calls=[{"tool_call_id": "a", "function_name": "f", "arguments": {}}]),
        step(
            3,
            tool_calls=[{"tool_call_id": "b", "function_name": "f", "arguments": {}}],
            observation={"results": [{"source_call_id": "zzz", "content": "?"}]},
        ),
    )
    notes = Notes()
    row = read(broken, notes)
    assert {code for code, _ in notes.flaws} == {
        "step ids",
        "malformed arguments",
        "duplicate call id",
        "result without call",
    }
    assert row["content"][0]["malformed"] == "{'no': json}"
    assert row["content"][-1]["call_id"] == "zzz"


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        run(step(1, "tool", "x")),
        run(5),
        run(step(1, "user", "x"), steps=None),
        run(step(1, "user", "x"), schema_version=7),
        run(step(1, "user", "x"), schema_version="other-v1"),
        run(step(1, "user", 5)),
        run(step(1, tool_calls=[{"function_name": "f"}])),
        run(step(1, observation={"results": [5]})),
        run(step(1, "user", [{"type": "image"}])),
        {"schema_version": "ATIF-v1.7", "agent": "x", "steps": []},
    ],
)
def test_a_value_of_another_shape_is_a_row_error(value):
    with pytest.raises(RowError) as error:
        decode(ATIF, value, Notes())
    assert "\n" not in str(error.value)
    assert isinstance(ATIF.likes(value), int)


def test_it_is_recognised():
    assert ATIF.likes(FULL) > 95
    assert ATIF.likes({"steps": [step(1, "user", "x")]}) > 80
    assert ATIF.likes({"messages": []}) == 0


def test_a_row_without_items_cannot_be_written():
    with pytest.raises(RowError):
        written({"id": "t", "content": []})


@settings(max_examples=300)
@given(damaged(EVERYTHING.map(written)) | damaged(st.just(FULL)) | json_values)
def test_a_damaged_file_is_a_row_or_a_row_error(value):
    assert 0 <= ATIF.likes(value) <= 100
    try:
        row = read(value)
        written(row)
    except RowError as error:
        assert "\n" not in str(error)
