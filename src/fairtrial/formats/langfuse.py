"""Langfuse exports (langfuse 5.0.4): traces with their observations and scores, or lists of observations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtrial.formats.call_payloads import output_of, prompt_of
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.part_messages import Memo
from fairtrial.formats.span_attributes import model_call, parsed
from fairtrial.formats.span_groups import Place, gatherer, group_id, is_group
from fairtrial.formats.span_tree import Kind, Node, row_of_nodes

SPACE = "langfuse"
_KINDS: dict[str, Kind] = {"GENERATION": "llm", "TOOL": "tool", "AGENT": "agent"}
_TYPES = frozenset({"SPAN", "EVENT", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL", *_KINDS})
_MARKS = frozenset({"sessionId", "userId", "bookmarked", "htmlPath", "projectId", "release", "latency", "totalCost"})
_SCORE = "score"
_TRACE = "trace"


def _get(value: dict[str, Any], name: str) -> Any:
    """A field by its name in camel case, or in snake case as the Python SDK dumps it."""
    if name in value:
        return value[name]
    return value.get("".join(f"_{c.lower()}" if c.isupper() else c for c in name))


def _is_observation(value: Any) -> bool:
    if not isinstance(value, dict) or "id" not in value or not isinstance(value.get("type"), str):
        return False
    return value["type"] in _TYPES and _get(value, "traceId") is not None


def _records(value: Any) -> Iterator[dict[str, Any]]:
    """Observations as they are; traces and scores wrapped as {"trace": ...} and {"score": ..., "traceId": ...}."""
    if is_group(value):
        yield from value["spans"]
    elif isinstance(value, list):
        for element in value:
            yield from _records(element)
    elif _is_observation(value):
        yield value
    elif isinstance(value, dict):
        if isinstance(value.get("data"), list):
            yield from _records(value["data"])
        elif isinstance(value.get("traces"), list):
            for trace in value["traces"]:
                yield from _records(trace)
        else:
            yield from _trace_records(value)


def _trace_records(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = value.get("trace")
    trace = {**inner, **{k: v for k, v in value.items() if k != "trace"}} if isinstance(inner, dict) else value
    observations, scores = trace.get("observations"), trace.get("scores")
    id = trace.get("id")
    if not isinstance(id, str) or not ({"timestamp", "input", "output", "observations"} & trace.keys()):
        return
    yield {_TRACE: {k: v for k, v in trace.items() if k not in ("observations", "scores") or not _full(v)}}
    for observation in observations if isinstance(observations, list) else ():
        if isinstance(observation, dict):
            yield {"traceId": id, **observation}
    for score in scores if isinstance(scores, list) else ():
        if isinstance(score, dict):
            yield {_SCORE: score, "traceId": id}


def _full(value: Any) -> bool:
    """Whether a list holds the things themselves: list endpoints give their ids only."""
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _trace_id(record: dict[str, Any]) -> str:
    if _TRACE in record and isinstance(record[_TRACE], dict):
        return str(record[_TRACE]["id"])
    return str(_get(record, "traceId"))


def _place(record: dict[str, Any]) -> Place:
    root = _SCORE not in record and (_TRACE in record or _get(record, "parentObservationId") is None)
    return Place(_trace_id(record), root)


def _node(record: dict[str, Any], position: int, memo: Memo) -> Node:
    left = {key: value for key, value in record.items() if key not in ("id", "traceId", "trace_id")}
    kind = _KINDS.get(str(record.get("type")), "other")
    start, end = _get(record, "startTime"), _get(record, "endTime")
    parent = _get(record, "parentObservationId")
    node = Node(
        id=str(record.get("id", f"observation {position}")),
        parent=None if parent is None else str(parent),
        kind=kind,
        name=str(record["name"]) if record.get("name") else None,
        whole=dict(left),
        left=left,
        began=start if isinstance(start, str) else None,
        ended=end if isinstance(end, str) else None,
        timestamp=start if isinstance(start, str) else None,
        failed=record.get("level") == "ERROR",
    )
    if kind == "tool":
        node.arguments = parsed(left.pop("input", None))
        output = parsed(left.pop("output", None))
        if isinstance(output, dict) and isinstance(output.get("tool_call_id"), str) and "content" in output:
            node.call_id, node.result = output["tool_call_id"], output["content"]
        else:
            node.result = output
        if node.result is None and node.failed:
            node.result = _get(record, "statusMessage")
    else:
        _call(node, left, memo)
    node.left = {key: value for key, value in left.items() if value not in (None, "", [], {})}
    return node


def _call(node: Node, left: dict[str, Any], memo: Memo) -> None:
    request, response = prompt_of(left.pop("input", None), memo), output_of(left.pop("output", None))
    node.prompt, node.output, node.offered = request.messages, response.messages, request.tools
    if request.rest:
        left["input"] = request.rest
    if response.rest:
        left["output"] = response.rest
    if node.kind != "llm":
        return
    sampling = parsed(_pop(left, "modelParameters"))
    sent, given, cached, cost = _usage(left)
    usage = response.usage if isinstance(response.usage, dict) else {}
    node.model_call = model_call(
        _pop(left, "model") or response.model or request.model,
        sent=sent or usage.get("input_tokens") or usage.get("prompt_tokens"),
        given=given or usage.get("output_tokens") or usage.get("completion_tokens"),
        cached=cached,
        cost=cost,
        sampling=sampling if isinstance(sampling, dict) else None,
        finish=response.finish,
    )


def _pop(left: dict[str, Any], name: str) -> Any:
    value = _get(left, name)
    left.pop(name, None)
    left.pop("".join(f"_{c.lower()}" if c.isupper() else c for c in name), None)
    return value


def _usage(left: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Tokens sent, given, cached, and the cost. `usageDetails` counts kinds of input apart; they add up."""
    details, usage = parsed(_get(left, "usageDetails")), parsed(left.get("usage"))
    costs = parsed(_get(left, "costDetails"))
    cost = costs.get("total") if isinstance(costs, dict) else None
    cost = cost or _get(left, "calculatedTotalCost") or _get(left, "totalCost")
    if isinstance(details, dict) and details:
        counts = {
            key: value for key, value in details.items() if isinstance(value, int) and not isinstance(value, bool)
        }
        sent = sum(value for key, value in counts.items() if "input" in key)
        given = sum(value for key, value in counts.items() if "output" in key)
        cached = sum(value for key, value in counts.items() if "cached" in key or "cache_read" in key)
        return sent, given, cached, cost
    if isinstance(usage, dict):
        cost = cost or usage.get("totalCost")
        sent = usage.get("input") or usage.get("promptTokens")
        return sent, usage.get("output") or usage.get("completionTokens"), None, cost
    return _get(left, "promptTokens"), _get(left, "completionTokens"), None, cost


def _likes(value: Any) -> int:
    if is_group(value):
        spans = value["spans"]
        return 91 if isinstance(spans, list) and spans and isinstance(spans[0], dict) and _known(spans[0]) else 0
    if not isinstance(value, dict):
        return 0
    if _is_observation(value):
        return 91
    inner = value.get("trace")
    trace = inner if isinstance(inner, dict) else value
    if not isinstance(trace.get("id"), str) or "run_type" in trace:
        return 0
    observations = value.get("observations", trace.get("observations"))
    if isinstance(observations, list) and ((_full(observations) and observations) or "timestamp" in trace):
        return 91 if not observations or not isinstance(observations[0], dict) or "type" in observations[0] else 40
    marks = trace.keys() & _MARKS
    return 84 if "timestamp" in trace and len(marks) > 2 else 0


def _known(record: dict[str, Any]) -> bool:
    return _TRACE in record or _SCORE in record or _is_observation(record)


def _decode(value: Any, notes: Notes) -> Row:
    records = [record for record in _records(value) if isinstance(record, dict)]
    if not records:
        raise RowError("holds no Langfuse trace or observations")
    traces = list(dict.fromkeys(_trace_id(record) for record in records))
    if len(traces) > 1 and not is_group(value):
        raise RowError(f"holds records of {len(traces)} traces; read the file as a whole to have them grouped")
    id = group_id(value, notes) if is_group(value) else traces[0]
    told = [record[_TRACE] for record in records if _TRACE in record]
    scores = [record[_SCORE] for record in records if _SCORE in record]
    memo = Memo()
    nodes = [
        _node(record, n, memo) for n, record in enumerate(records) if _TRACE not in record and _SCORE not in record
    ]
    trace = told[0] if told else {}
    root = _root(trace, nodes)
    row = row_of_nodes(id, SPACE, [*nodes, *root], notes)
    _add_trace(row, trace if not root else {k: v for k, v in trace.items() if k not in ("input", "output")}, told[1:])
    _add_scores(row, scores)
    return row


def _root(trace: dict[str, Any], nodes: list[Node]) -> list[Node]:
    """The trace itself as a span, where no observation says what went in and came out."""
    if any(node.prompt or node.output for node in nodes) or not (trace.get("input") or trace.get("output")):
        return []
    node = Node(f"trace {trace['id']}", None, "other", trace.get("name"), {}, {})
    node.prompt, node.output = prompt_of(trace.get("input")).messages, output_of(trace.get("output")).messages
    node.whole = {key: trace[key] for key in ("input", "output") if trace.get(key) is not None}
    return [node]


def _add_trace(row: Row, trace: dict[str, Any], others: list[dict[str, Any]]) -> None:
    kept = {key: value for key, value in trace.items() if value not in (None, "", [], {})}
    if kept:
        row["extra"][SPACE]["trace"] = kept
    if others:
        row["extra"][SPACE]["other_traces"] = others
    details = {"name": trace.get("name"), "session": _get(trace, "sessionId"), "tags": trace.get("tags")}
    told = {key: value for key, value in details.items() if value}
    if told:
        row.setdefault("details", {}).update(told)


def _add_scores(row: Row, scores: list[dict[str, Any]]) -> None:
    """Scores as details; the reward where exactly one score of the whole trace is a number."""
    if not scores:
        return
    row.setdefault("details", {})["scores"] = scores
    of_trace = [score.get("value") for score in scores if _get(score, "observationId") is None]
    numbers = [value for value in of_trace if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 1:
        row["reward"] = float(numbers[0])


LANGFUSE = Format(
    name=SPACE,
    title="Langfuse traces and observations (read: langfuse 5.0.4)",
    likes=_likes,
    decode=_decode,
    gather=gatherer(_records, _place),
)
