"""What holds for every source of spans and logs, on any JSON value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, Numbered, RowError, decode, named

KEYS = st.sampled_from(
    [
        "id",
        "traceId",
        "trace_id",
        "spanId",
        "attributes",
        "resourceSpans",
        "scopeSpans",
        "spans",
        "group",
        "run_type",
        "inputs",
        "outputs",
        "messages",
        "type",
        "input",
        "output",
        "observations",
        "trace",
        "scores",
        "eval",
        "version",
        "status",
        "samples",
        "sample",
        "log",
        "epoch",
        "target",
        "events",
        "child_runs",
        "data",
    ]
)
WORDS = st.sampled_from(["", "x", "llm", "GENERATION", "[1", '{"role": 1}'])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | WORDS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=25
)


@pytest.mark.parametrize("name", ["otel-genai", "openinference", "langsmith", "langfuse", "inspect"])
@given(value=VALUES)
def test_any_json_value_is_a_row_or_a_row_error(name, value):
    format = named(name)
    assert 0 <= format.likes(value) <= 100
    for item in format.gather(iter([Numbered(1, value)])):
        try:
            decode(format, item.value, Notes())
        except RowError as error:
            assert "\n" not in str(error)
