"""Langfuse traces and observations, in the shape of its JSON downloads and public API (langfuse 5.0.4)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, Numbered, RowError, decode
from fairtrial.formats.langfuse import LANGFUSE

TOLD = ["Be brief.", "Weather in Oslo?", "weather", "rain", "It rains."]
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Oslo?"}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
SAID = {"role": "assistant", "content": "I look.", "tool_calls": CALLS}
DONE = {"role": "assistant", "content": "It rains."}
RAIN = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
SNAKE = {"parentObservationId": "parent_observation_id", "startTime": "start_time", "traceId": "trace_id"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def observation(id, kind, at, given, output, parent="o1", **more):
    return {
        "id": id, "traceId": "t1", "type": kind, "name": more.pop("name", kind.lower()), "parentObservationId": parent,
        "startTime": f"2026-01-01T00:00:{at:02}.000Z", "endTime": f"2026-01-01T00:00:{at:02}.500Z", "level": "DEFAULT",
        "input": given, "output": output, **more,
    }  # fmt: skip


def observations():
    usage = {"input": 10, "input_cached_tokens": 3, "output": 4, "total": 17}
    return [
        observation("o1", "AGENT", 0, None, None, None, name="bot"),
        observation("o2", "GENERATION", 1, {"messages": ASK, "tools": TOOLS}, SAID, model="gpt-5",
                    modelParameters={"temperature": 0.5}, usageDetails=usage, costDetails={"total": 0.25}),
        observation("o3", "TOOL", 2, {"city": "Oslo"}, "rain", name="weather"),
        observation("o4", "GENERATION", 3, [*ASK, SAID, RAIN], DONE, model="gpt-5",
                    usage={"input": 20, "output": 5, "unit": "TOKENS"}),
    ]  # fmt: skip


def trace():
    scores = [
        {"id": "s1", "name": "right", "value": 0.75, "dataType": "NUMERIC", "traceId": "t1", "observationId": None},
        {"id": "s2", "name": "step", "value": 1, "dataType": "NUMERIC", "traceId": "t1", "observationId": "o2"},
        {"id": "s3", "name": "tone", "value": "good", "dataType": "CATEGORICAL", "traceId": "t1"},
    ]
    return {
        "id": "t1", "timestamp": "2026-01-01T00:00:00.000Z", "name": "weather bot", "sessionId": "s", "userId": "u",
        "tags": ["demo"], "input": "Weather in Oslo?", "output": "It rains.", "observations": observations(),
        "scores": scores, "totalCost": 0.25, "latency": 3.5,
    }  # fmt: skip


def read(*values):
    found = []
    for item in LANGFUSE.gather(iter([Numbered(n, value) for n, value in enumerate(values, 1)])):
        notes = Notes()
        found.append((decode(LANGFUSE, item.value, notes), notes))
    return found


def texts(row):
    return [item.get("content", item.get("function")) for item in row["content"]]


def test_a_trace_with_its_observations_and_scores():
    ((row, notes),) = read(trace())
    assert texts(row) == TOLD and row["id"] == "t1" and not notes.flaws
    first, second = row["model_calls"]
    assert first["usage"] == {"calls": 1, "input_tokens": 13, "output_tokens": 4, "cached_tokens": 3, "cost_usd": 0.25}
    assert first["sampling"] == {"temperature": 0.5} and first["model"] == "gpt-5"
    assert second["usage"] == {"calls": 1, "input_tokens": 20, "output_tokens": 5}
    assert row["content"][2]["timestamp"] == "2026-01-01T00:00:01.000Z"
    assert row["tools"] == TOOLS
    assert row["reward"] == 0.75 and len(row["details"]["scores"]) == 3
    assert row["details"]["session"] == "s" and row["details"]["tags"] == ["demo"]
    own = row["extra"]["langfuse"]
    assert [entry["id"] for entry in own["spans"]] == ["o1", "o2", "o3", "o4"]
    assert own["trace"]["userId"] == "u"


@pytest.mark.parametrize(
    "values",
    [
        [{"trace": {k: v for k, v in trace().items() if k != "observations"}, "observations": observations()}],
        observations()[::-1],
        [{"data": observations(), "meta": {"cursor": None}}],
        [{SNAKE.get(key, key): value for key, value in one.items()} for one in observations()],
        [{**one, "input": json.dumps(one["input"]), "output": json.dumps(one["output"])} for one in observations()],
        [{k: v for k, v in trace().items() if k != "observations"}, *observations()],
    ],
    ids=["download", "rows", "page", "snake", "text", "trace-then-rows"],
)  # fmt: skip
def test_every_way_to_export_says_the_same(values):
    ((row, _),) = read(*values)
    assert texts(row) == TOLD


def test_the_langchain_handlers_messages():
    listed = [*ASK, *({"role": "tool", "content": tool} for tool in TOOLS)]
    calls = [{"name": "weather", "args": {"city": "Oslo"}, "id": "c1", "type": "tool_call"}]
    said = {"role": "assistant", "content": "I look.", "tool_calls": calls, "additional_kwargs": {"refusal": None}}
    ((row, _),) = read(
        observation("o2", "GENERATION", 1, listed, said), observation("o4", "GENERATION", 3, [*ASK, said, RAIN], DONE)
    )
    assert texts(row) == TOLD
    assert row["tools"] == TOOLS


def test_a_trace_that_says_only_what_went_in_and_came_out():
    bare = trace()
    bare["observations"] = [observation("o3", "TOOL", 2, {"city": "Oslo"}, "rain", None, name="weather")]
    ((row, _),) = read(bare)
    assert texts(row) == ["Weather in Oslo?", "It rains.", "weather", "rain"]
    assert "model_calls" not in row


def test_an_agent_below_a_tool_is_a_sub_agent():
    rows = observations()
    rows.insert(3, observation("o9", "GENERATION", 2, [{"role": "user", "content": "Oslo?"}], "rain", "o3"))
    ((row, _),) = read(*rows)
    assert texts(row) == TOLD
    assert texts(row["subagents"][0]) == ["Oslo?", "rain"]
    assert row["content"][3]["subagents"] == ["t1/o9"]


def test_a_failed_tool_says_so():
    rows = observations()[:3]
    rows[2] |= {"output": None, "level": "ERROR", "statusMessage": "no such city"}
    ((row, _),) = read(*rows)
    assert (row["content"][3]["content"], row["content"][3]["is_error"]) == ("no such city", True)


def test_likes():
    assert LANGFUSE.likes(trace()) > 80 and all(LANGFUSE.likes(one) > 80 for one in observations())
    assert LANGFUSE.likes({k: v for k, v in trace().items() if k != "observations"}) > 80
    for other in (
        None,
        [],
        {"type": []},
        {"type": "SPAN", "id": 1},
        {"id": "x", "observations": [3]},
        {"group": 1, "spans": 3},
    ):
        assert LANGFUSE.likes(other) <= 40


JUNK = st.sampled_from([None, 7, "x", [], {}, [3], {"a": None}, "[1", {"messages": 3}, {"choices": [3]}, [[], []]])


@given(st.data())
def test_observations_lost_reordered_or_broken_are_rows_or_row_errors(data):
    one = json.loads(json.dumps(trace()))
    rows = one["observations"] = data.draw(st.permutations(one["observations"]))[: data.draw(st.integers(1, 4))]
    for row in [*rows, one, *one["scores"]]:
        for _ in range(data.draw(st.integers(0, 2))):
            key = data.draw(st.sampled_from(sorted(row) or ["id"]))
            if data.draw(st.booleans()):
                row.pop(key, None)
            else:
                row[key] = data.draw(JUNK)
    for value in (one, *rows):
        LANGFUSE.likes(value)
    for item in LANGFUSE.gather(iter([Numbered(1, one), *(Numbered(n, row) for n, row in enumerate(rows, 2))])):
        try:
            row = decode(LANGFUSE, item.value, Notes())
        except RowError:
            continue
        assert row["extra"]["langfuse"]["spans"]
