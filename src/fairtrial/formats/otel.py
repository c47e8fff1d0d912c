"""Traces of OpenTelemetry: the GenAI conventions and OpenInference, one trajectory per conversation or trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairtrial.formats import openinference, otel_genai
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.otel_spans import Span, gather, is_spans, merged, spans_of
from fairtrial.formats.part_messages import Memo
from fairtrial.formats.span_groups import group_id, is_group
from fairtrial.formats.span_tree import Node, row_of_nodes

_EVALUATION = "gen_ai.evaluation."
_SENSED = 16
_LLM_MESSAGES = ("llm.input_messages.", "llm.output_messages.")


def _likes_genai(value: Any) -> int:
    if not (is_spans(value) or is_group(value)):
        return 0
    return 88 if any(otel_genai.speaks(span["attributes"]) for span in _some(value)) else 22


def _likes_openinference(value: Any) -> int:
    if not (is_spans(value) or is_group(value)):
        return 0
    return 92 if any(_is_openinference(span) for span in _some(value)) else 0


def _some(value: Any) -> list[Span]:
    """The first spans of a value; none where it only looks like spans."""
    found: list[Span] = []
    try:
        for span in spans_of(value):
            found.append(span)
            if len(found) == _SENSED:
                break
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return []
    return [span for span in found if isinstance(span, dict) and isinstance(span.get("attributes"), dict)]


def _is_openinference(span: Span) -> bool:
    attributes = span["attributes"]
    if openinference.KIND in attributes or any(key.startswith(_LLM_MESSAGES) for key in attributes):
        return True
    inner = attributes.get("openinference")
    return isinstance(inner, dict) and "span" in inner


def _decoder(space: str, node_of: Callable[[Span, Memo], Node]) -> Callable[[Any, Notes], Row]:
    def decode(value: Any, notes: Notes) -> Row:
        spans = merged(list(spans_of(value)), notes)
        if not spans:
            raise RowError("holds no spans")
        if is_group(value):
            id = group_id(value, notes)
        else:
            traces = list(dict.fromkeys(span["trace"] for span in spans))
            if len(traces) > 1:
                raise RowError(f"holds spans of {len(traces)} traces; read the file as a whole to have them grouped")
            id = traces[0]
        memo = Memo()
        row = row_of_nodes(id, space, [node_of(span, memo) for span in spans], notes)
        _add_about(row, spans, space)
        _add_evaluations(row, spans)
        return row

    return decode


def _add_about(row: Row, spans: list[Span], space: str) -> None:
    """The trace ids, resources and scopes of the spans, each once."""
    extra = row["extra"][space]
    traces = list(dict.fromkeys(span["trace"] for span in spans))
    if traces != [row["id"]]:
        extra["traces"] = traces
    told: list[Any] = []
    for span in spans:
        if span.get("about") and span["about"] not in told[-8:]:
            told.append(span["about"])
    if told:
        extra["about"] = told
    details = row.setdefault("details", {})
    service = next((s for about in told if (s := about.get("resource", {}).get("service.name"))), None)
    agent = next((s for span in spans if (s := span["attributes"].get("gen_ai.agent.name"))), None)
    details.update({key: name for key, name in (("service", service), ("agent", agent)) if isinstance(name, str)})
    if not details:
        del row["details"]


def _add_evaluations(row: Row, spans: list[Span]) -> None:
    """`gen_ai.evaluation.*` of events and spans; the reward where exactly one evaluation gives a number."""
    found: list[dict[str, Any]] = []
    for span in spans:
        for attributes in (span["attributes"], *(event["attributes"] for event in span["events"])):
            told = {key.removeprefix(_EVALUATION): v for key, v in attributes.items() if key.startswith(_EVALUATION)}
            if told:
                found.append(told)
    if not found:
        return
    row.setdefault("details", {})["evaluations"] = found
    scores = [told.get("score.value") for told in found]
    numbers = [score for score in scores if isinstance(score, int | float) and not isinstance(score, bool)]
    if len(numbers) == 1:
        row["reward"] = float(numbers[0])


OTEL_GENAI = Format(
    name="otel-genai",
    title="OpenTelemetry GenAI spans (OTLP or SDK JSON; conventions up to 0.66b2, older events, Traceloop)",
    likes=_likes_genai,
    decode=_decoder("otel-genai", otel_genai.node_of),
    gather=gather,
)
OPENINFERENCE = Format(
    name="openinference",
    title="OpenInference spans (Phoenix, Arize; conventions 0.1.42)",
    likes=_likes_openinference,
    decode=_decoder("openinference", openinference.node_of),
    gather=gather,
)
