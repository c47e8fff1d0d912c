"""OpenTelemetry spans in JSON: OTLP (file exporter, collector), the SDKs' console form, and plain span objects.

`gather` groups the spans of a file by conversation (`gen_ai.conversation.id`, `session.id`), or else by trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtrial.formats.format import Notes
from fairtrial.formats.span_groups import Place, gatherer, is_group

Span = dict[str, Any]
"""trace, id, parent, name, start, end, failed, message, attributes, events, about (resource and scope), rest."""

_CONVERSATION = ("gen_ai.conversation.id", "session.id")
_OTLP = ("resourceSpans", "resource_spans", "resourceLogs", "resource_logs")
_TAKEN = frozenset(
    {"traceId", "trace_id", "spanId", "span_id", "parentSpanId", "parent_span_id", "parent_id", "context", "name"}
    | {"startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "resource", "scope", "status"}
    | {"endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime", "attributes", "events"}
)


def is_spans(value: Any) -> bool:
    """Whether a value has the shape of OpenTelemetry spans, whatever they are about."""
    if not isinstance(value, dict):
        return False
    if any(isinstance(value.get(key), list) for key in _OTLP):
        return True
    return "attributes" in value and _ids(value) is not None


def _is_read(value: Any) -> bool:
    """Whether this is a span as `spans_of` makes it."""
    if not isinstance(value, dict) or not isinstance(value.get("attributes"), dict):
        return False
    return {"trace", "id", "parent", "about"} <= value.keys() and ("record" in value or "events" in value)


def place_of(span: Span) -> Place:
    """Where a span belongs."""
    conversation = next((str(told) for name in _CONVERSATION if (told := span["attributes"].get(name))), None)
    return Place(span["trace"], span["parent"] is None, conversation)


def spans_of(value: Any) -> Iterator[Span]:
    """The spans of any value; log records of a span come as spans without a name, for `merged` to join."""
    if is_group(value):
        yield from (span for span in value["spans"] if _is_read(span))
    elif isinstance(value, list):
        for element in value:
            yield from spans_of(element)
    elif isinstance(value, dict):
        found = next((value[key] for key in _OTLP[:2] if isinstance(value.get(key), list)), None)
        if found is not None:
            yield from _otlp(found, ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"), "spans", _span)
        logs = next((value[key] for key in _OTLP[2:] if isinstance(value.get(key), list)), None)
        if logs is not None:
            yield from _otlp(logs, ("scopeLogs", "scope_logs"), "logRecords", _record)
        if found is None and logs is None and _ids(value) is not None:
            yield _span(value, _about(value.get("resource"), value.get("scope")))


def _otlp(resources: list[Any], scopes: tuple[str, ...], leaf: str, make: Any) -> Iterator[Span]:
    for resource in resources:
        if not isinstance(resource, dict):
            continue
        for scoped in next((resource[key] for key in scopes if isinstance(resource.get(key), list)), ()):
            if not isinstance(scoped, dict):
                continue
            about = _about(resource.get("resource"), scoped.get("scope") or scoped.get("instrumentationLibrary"))
            for element in _list(scoped.get(leaf) or scoped.get("log_records")):
                if isinstance(element, dict) and _ids(element) is not None:
                    yield make(element, about)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _about(resource: Any, scope: Any) -> dict[str, Any]:
    about: dict[str, Any] = {}
    if isinstance(resource, dict) and (told := attributes_of(resource.get("attributes"))):
        about["resource"] = told
    if isinstance(scope, dict) and scope:
        about["scope"] = {**scope, "attributes": told} if (told := attributes_of(scope.get("attributes"))) else scope
    return about


def _ids(value: dict[str, Any]) -> tuple[str, str] | None:
    context = value.get("context")
    place = context if isinstance(context, dict) else value
    trace = place.get("traceId") or place.get("trace_id")
    span = place.get("spanId") or place.get("span_id")
    if not isinstance(trace, str) or not isinstance(span, str):
        return None
    return trace.removeprefix("0x"), span.removeprefix("0x")


def _first(value: dict[str, Any], *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _span(value: dict[str, Any], about: dict[str, Any]) -> Span:
    trace, span_id = _ids(value) or ("", "")
    parent = _first(value, "parentSpanId", "parent_span_id", "parent_id")
    status = value.get("status")
    told = status if isinstance(status, dict) else {}
    code = str(told.get("code", told.get("status_code", value.get("status_code", ""))))
    span: Span = {
        "trace": trace,
        "id": span_id,
        "parent": parent.removeprefix("0x") if isinstance(parent, str) and parent else None,
        "name": str(value.get("name") or ""),
        "start": _first(value, "startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime"),
        "end": _first(value, "endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime"),
        "failed": code in ("2", "ERROR", "STATUS_CODE_ERROR"),
        "attributes": attributes_of(value.get("attributes")),
        "events": [_event(event) for event in _list(value.get("events")) if isinstance(event, dict)],
        "about": about,
    }
    if isinstance(told.get("message") or told.get("description"), str):
        span["message"] = told.get("message") or told.get("description")
    rest = {key: left for key, left in value.items() if key not in _TAKEN and left not in (None, "", [], {})}
    if rest:
        span["rest"] = rest
    return span


def _event(event: dict[str, Any]) -> dict[str, Any]:
    at = _first(event, "timeUnixNano", "time_unix_nano", "timestamp", "time")
    return {"name": str(event.get("name") or ""), "time": at, "attributes": attributes_of(event.get("attributes"))}


def _record(value: dict[str, Any], about: dict[str, Any]) -> Span:
    """A log record of a span: an event whose content stands in the body."""
    trace, span_id = _ids(value) or ("", "")
    attributes = attributes_of(value.get("attributes"))
    body = _any(value.get("body")) if isinstance(value.get("body"), dict) else value.get("body")
    if isinstance(body, dict):
        attributes = {**body, **attributes}
    elif body is not None:
        attributes = {"body": body, **attributes}
    name = value.get("eventName") or value.get("event_name") or attributes.pop("event.name", "")
    at = _first(value, "timeUnixNano", "observedTimeUnixNano", "time_unix_nano")
    event = {"name": str(name), "time": at, "attributes": attributes}
    return {"trace": trace, "id": span_id, "record": event, "parent": "", "attributes": {}, "about": about}


def merged(spans: list[Span], notes: Notes) -> list[Span]:
    """The spans with their log records among their events."""
    whole = [span for span in spans if "record" not in span]
    by_id = {(span["trace"], span["id"]): span for span in whole}
    for record in spans:
        if "record" not in record:
            continue
        key = (record["trace"], record["id"])
        span = by_id.get(key)
        if span is None:
            notes.flaw("record without a span", f"a log record belongs to span {record['id']}, which the file lacks")
            span = {"start": record["record"]["time"], "end": None, "failed": False, "events": [], "name": ""}
            span = {**record, **span, "parent": None}
            del span["record"]
            by_id[key] = span
            whole.append(span)
        span["events"] = [*span["events"], record["record"]]
    return whole


def attributes_of(value: Any) -> dict[str, Any]:
    """Attributes as a dict: from OTLP's list of key and AnyValue, or as they are."""
    if isinstance(value, dict):
        return dict(value)
    if not isinstance(value, list):
        return {}
    pairs = (pair for pair in value if isinstance(pair, dict) and isinstance(pair.get("key"), str))
    return {pair["key"]: _any(pair.get("value")) for pair in pairs}


def _any(value: Any) -> Any:
    """An OTLP AnyValue as a plain value."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, inner),) = value.items()
    if kind in ("intValue", "int_value"):
        return int(inner) if isinstance(inner, str) and inner.lstrip("-").isdigit() else inner
    if kind in ("arrayValue", "array_value"):
        values = inner.get("values") if isinstance(inner, dict) else None
        return [_any(element) for element in _list(values)]
    if kind in ("kvlistValue", "kvlist_value"):
        return attributes_of(inner.get("values") if isinstance(inner, dict) else None)
    if kind.endswith(("Value", "_value")):
        return inner
    return value


gather = gatherer(spans_of, place_of)
"""Groups a file's spans."""
