"""From what a provider says went wrong to the error that it is: one place for statuses, codes and messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fairtrial.models.endpoints.retrying import TryFailedError, retry_after_s
from fairtrial.models.model import ContextTooLongError, UnsupportedError

SHOWN = 300
_TOO_LONG = re.compile(
    r"maximum context length|context window|context length|context size|prompt is too long|too many input tokens", re.I
)
_LIMIT = re.compile(
    r"maximum context length (?:is|of) ([\d,]+)|tokens > ([\d,]+) maximum|context size \(([\d,]+)", re.I
)
_TOKENS = re.compile(
    r"resulted in ([\d,]+) tokens|you requested ([\d,]+) tokens|prompt is too long: ([\d,]+) tokens|"
    r"(?:request has|contains at least|contains) ([\d,]+) input tokens|request \(([\d,]+) tokens\)",
    re.I,
)
_TIMEOUTS = {408, 504}


class FilteredError(Exception):
    """The provider refused the request's content. Internal: becomes a reply that ended by the content filter."""


@dataclass(frozen=True, slots=True)
class Whose:
    """What error messages need to know of a model."""

    model: str
    context: int | None
    key: str | None
    """Never shown: it is cut out of whatever a provider says."""
    key_env: str | None

    def shown(self, text: str) -> str:
        """`text` on one line, shortened, without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def from_status(status: int, headers: Mapping[str, str], body: str, *, now: datetime, whose: Whose) -> Exception:
    """The error for a reply with an error status."""
    error = _error_object(body)
    message = str(error.get("message") or "") if error else _page(body, headers)
    asked = retry_after_s(headers, now)
    if status in (401, 403):
        variable = f"the key in {whose.key_env}" if whose.key else "the request without a key"
        return TryFailedError(
            "auth", f"the server refuses {variable}: {whose.shown(message)}", status=status, retryable=False
        )
    if status in (400, 413, 422):
        return _refused(status, error, message, whose)
    if status == 429:
        spent = "insufficient_quota" in (error.get("code"), error.get("type"))
        cause = "quota" if spent else "rate_limit"
        return TryFailedError(
            cause, whose.shown(message), status=status, retryable=not spent, retry_after_s=None if spent else asked
        )
    cause = (
        "timeout" if status in _TIMEOUTS else "server_error" if status >= 500 else _CAUSES.get(status, "bad_request")
    )
    retryable = status >= 500 or status in (408, 409)
    return TryFailedError(
        cause, whose.shown(message), status=status, retryable=retryable, retry_after_s=asked if retryable else None
    )


_CAUSES = {404: "not_found", 409: "conflict"}


def from_error_object(error: Any, *, whose: Whose) -> Exception:
    """The error for an error object inside a reply with status 200, or inside a stream."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
    message = str(fields.get("message") or "no message")
    names = {str(fields.get(name) or "").lower() for name in ("code", "type")}
    if _is_too_long(fields, message):
        return _too_long(fields, message, whose)
    if names & {"rate_limit_error", "rate_limit_exceeded", "429"}:
        return TryFailedError("rate_limit", whose.shown(message))
    return TryFailedError("server_error", f"inside the reply: {whose.shown(message)}")


def _refused(status: int, error: dict[str, Any], message: str, whose: Whose) -> Exception:
    """A 400: what the caller asked cannot be answered, however often."""
    if _is_too_long(error, message):
        return _too_long(error, message, whose)
    code = str(error.get("code") or "")
    if code == "content_filter" or error.get("type") == "content_filter" or code == "content_policy_violation":
        return FilteredError(whose.shown(message))
    if code in ("unsupported_parameter", "unsupported_value"):
        name = error.get("param") or "a parameter"
        return UnsupportedError(
            f'"{whose.model}" does not take {name}: {whose.shown(message)} (leave it unset, or add it to "omit")'
        )
    return TryFailedError("bad_request", whose.shown(message), status=status, retryable=False)


def _is_too_long(error: dict[str, Any], message: str) -> bool:
    names = (error.get("code"), error.get("type"))
    return "context_length_exceeded" in names or "exceed_context_size_error" in names or bool(_TOO_LONG.search(message))


def _too_long(error: dict[str, Any], message: str, whose: Whose) -> ContextTooLongError:
    limit = _number(error.get("n_ctx")) or _first(_LIMIT, message) or whose.context
    tokens = _number(error.get("n_prompt_tokens")) or _first(_TOKENS, message)
    if tokens is not None and limit is not None and tokens <= limit:
        tokens = None  # it is prompt and reply together that do not fit
    return ContextTooLongError(tokens, limit, whose.model)


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return None if found is None else int(next(group for group in found.groups() if group).replace(",", "") or 0)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _error_object(body: str) -> dict[str, Any]:
    """The `error` object of a JSON body, in the shapes that servers use; empty where there is none."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    error = data.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    return {**data, "message": data.get("message") or data.get("detail") or body}


def _page(body: str, headers: Mapping[str, str]) -> str:
    """What to show of a body that is no JSON: the text of a page, without its mark-up."""
    text = body
    if "html" in headers.get("content-type", ""):
        title = re.search(r"<title>(.*?)</title>", body[:10_000], re.I | re.S)
        text = f"an HTML page: {title.group(1) if title else 'without a title'}"
    return text.strip() or "no message"
