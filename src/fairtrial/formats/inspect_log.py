"""Logs of Inspect AI (read: 0.3.285, log version 2), .eval and .json: one trajectory per sample and epoch.

The sample's messages are the trajectory. Its model events give the model calls, the tools offered and the times; a
conversation that only events show (a grader, an agent used as a tool) is kept in them, each of its messages once.
Events that repeat the messages are listed as dropped, all others are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.errors import UserError
from fairtrial.formats import inspect_archive, items
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError
from fairtrial.formats.inspect_messages import items_of
from fairtrial.formats.items import Item

_HEAD = 4096
_PREFIXES = ("attachment://", "tc://")
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_REPEATS = frozenset(
    {"span_begin", "span_end", "step", "state", "store", "sample_init", "model", "tool", "score", "subtask"}
)
"""Events that say again what messages, store and scores of the sample say, or that only mark begin and end."""
_MAPPED = frozenset({"id", "epoch", "messages", "events", "events_data", "attachments"})
_DETAILS = ("target", "choices", "metadata", "scores", "store", "limit", "error", "invalidation")


def _claims(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix == ".eval":
        return True
    if path.suffix != ".json":
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    start = head.lstrip()
    return start[:1] == b"{" and b'"eval"' in head and b'"version"' in head and b'"status"' in head


def _open(path: Path) -> Iterator[Numbered]:
    if path.suffix == ".eval":
        yield from inspect_archive.samples(path)
        return
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        log = orjson.loads(raw)
    except ValueError:
        try:
            # Inspect writes NaN and Infinity, which JSON does not have: kept as the words that they are
            log = json.loads(raw, parse_constant=str)
        except (ValueError, RecursionError) as error:
            yield Numbered(1, problem=f"not valid JSON: {error}", raw=raw)
            return
    yield Numbered(1, log)


def _gather(numbered: Iterator[Numbered]) -> Iterator[Numbered]:
    """One value per sample; a log without samples stays one value, so that it is reported."""
    for item in numbered:
        log = item.value
        samples = log.get("samples") if isinstance(log, dict) and "sample" not in log else None
        if not isinstance(samples, list) or not samples:
            yield item
            continue
        header = {key: value for key, value in log.items() if key != "samples"}
        for number, sample in enumerate(samples, 1):
            yield Numbered(number, inspect_archive.value(sample, header, number == 1))


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    if isinstance(value.get("eval"), dict) and {"version", "status"} <= value.keys():
        return 97
    if value.keys() == {"log", "sample"}:
        return 97 if _is_sample(value["sample"]) else 0
    return 90 if _is_sample(value) else 0


def _is_sample(value: Any) -> bool:
    return isinstance(value, dict) and {"id", "epoch", "messages", "target"} <= value.keys()


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    if "eval" in value and "sample" not in value:
        raise RowError(f"the log holds no samples (its status is {value.get('status')!r})")
    log, sample = (value["log"], value["sample"]) if "sample" in value else (None, value)
    if not isinstance(sample, dict) or not isinstance(sample.get("messages", []), list):
        raise RowError("not a sample of an Inspect log: it has no list of messages")
    sample = _resolved(_modern(sample), notes)
    messages = sample.get("messages") or []
    given = sample.get("input")
    if not messages and given:
        messages = [{"role": "user", "content": given, "source": "input"}] if isinstance(given, str) else given
    content, by_message = items_of(messages, notes)
    row: Row = {"id": f"{sample['id']}_epoch_{sample.get('epoch', 1)}", "content": content}
    _add_events(row, sample, by_message, notes)
    _add_scores(row, sample)
    _add_rest(row, sample, messages, log)
    return row


def _modern(sample: dict[str, Any]) -> dict[str, Any]:
    """Older logs had one `score`, and events and attachments under `transcript`."""
    if "score" in sample or "transcript" in sample:
        sample = dict(sample)
        if "score" in sample:
            sample.setdefault("scores", {"score": sample.pop("score")})
        transcript = sample.pop("transcript", None)
        if isinstance(transcript, dict):
            sample.setdefault("events", transcript.get("events"))
            sample.setdefault("attachments", transcript.get("content"))
    return sample


def _resolved(sample: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """The sample with every `attachment://hash` replaced by the text that it stands for."""
    attachments = sample.get("attachments")
    if not isinstance(attachments, dict):
        attachments = {}
    missing: set[str] = set()
    used: set[str] = set()

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            if value.startswith(_PREFIXES):
                key = value.split("://", 1)[1]
                if key in attachments:
                    used.add(key)
                    return attachments[key]
                missing.add(key)
            return value
        if isinstance(value, list):
            return [walk(element) for element in value]
        if isinstance(value, dict):
            return {key: walk(element) for key, element in value.items()}
        return value

    # rebuilt only where a reference stands: most messages and events have none
    sample = dict(sample)
    for key, element in sample.items():
        if key in ("messages", "events") and isinstance(element, list):
            sample[key] = [walk(inner) if _refers(inner) else inner for inner in element]
        elif key != "attachments" and _refers(element):
            sample[key] = walk(element)
    if missing:
        notes.flaw("missing attachment", f"the sample lacks {len(missing)} attachment(s) that it refers to")
    for key, text in attachments.items():
        if key not in used:
            notes.drop("an attachment that nothing refers to", text if isinstance(text, str) else json.dumps(text))
    return sample


def _refers(value: Any) -> bool:
    try:
        raw = orjson.dumps(value)
    except TypeError:  # text that is no UTF-8, from a log that only Python's own parser reads
        return True
    return b'"attachment://' in raw or b'"tc://' in raw


def _add_events(row: Row, sample: dict[str, Any], by_message: dict[str, Item], notes: Notes) -> None:
    """Model calls, tools and times from the sample's events; the events that say more than the messages."""
    events, pool = sample.get("events") or [], (sample.get("events_data") or {}).get("messages") or []
    calls: list[dict[str, Any]] = []
    kept: list[Any] = []
    tools: dict[str, Any] = {}
    seen: set[str] = set(by_message)
    news = any(message.get("id") not in seen for message in pool)
    for event in events:
        kind = event.get("event")
        if kind == "model" and not event.get("pending"):
            _add_model_call(event, calls, by_message)
            for tool in event.get("tools") or ():
                tools.setdefault(tool.get("name", ""), tool)
            if _kept_model_event(event, pool, seen, news):
                kept.append(_with_input(event, pool, seen))
                news = any(message.get("id") not in seen for message in pool)
                continue
        elif kind == "tool" and (item := by_message.get(event.get("message_id") or "")) is not None:
            item.setdefault("timestamp", event.get("completed") or event.get("timestamp"))
        if kind in _REPEATS:
            notes.drop("an event that repeats what messages and scores say", orjson.dumps(event).decode())
        else:
            kept.append(event)
    if calls:
        row["model_calls"] = calls
    if tools:
        row["tools"] = [{"type": "function", "function": tool} for tool in tools.values()]
    if kept:
        row.setdefault("extra", {}).setdefault("inspect", {})["events"] = kept


def _output(event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A model event's output, its first choice and that choice's message."""
    output = event.get("output") or {}
    choice = (output.get("choices") or [{}])[0]
    return output, choice, choice.get("message") or {}


def _add_model_call(event: dict[str, Any], calls: list[dict[str, Any]], by_message: dict[str, Item]) -> None:
    output, choice, message = _output(event)
    call: dict[str, Any] = {"model": output.get("model") or event.get("model") or "unknown"}
    if config := event.get("config"):
        call["sampling"] = config
    if choice.get("stop_reason"):
        call["finish_reason"] = choice["stop_reason"]
    usage = output.get("usage") or {}
    cached = usage.get("input_tokens_cache_read") or 0
    call["usage"] = {
        "calls": 1,
        # Inspect counts cached tokens apart
        "input_tokens": (usage.get("input_tokens") or 0) + cached + (usage.get("input_tokens_cache_write") or 0),
        "output_tokens": usage.get("output_tokens") or 0,
        "cached_tokens": cached,
        "cost_usd": usage.get("total_cost") or 0.0,
    }
    item = by_message.get(message.get("id") or "")
    if item is not None and items.is_action(item):
        item["model_call"] = len(calls)
        if event.get("timestamp"):
            item["timestamp"] = event["timestamp"]
    calls.append(call)


def _kept_model_event(event: dict[str, Any], pool: list[Any], seen: set[str], news: bool) -> bool:
    """Whether a model event shows a message that the sample's messages lack, failed, or tells log-probabilities.

    `news`: whether the pool of prompts holds such a message at all.
    """
    _, choice, message = _output(event)
    if event.get("error") or choice.get("logprobs") or len((event.get("output") or {}).get("choices") or ()) > 1:
        return True
    if message and message.get("id") not in seen:
        return True
    if event.get("input_refs") is not None and not news:
        return False
    return any(message.get("id") not in seen for message in _input(event, pool))


def _with_input(event: dict[str, Any], pool: list[Any], seen: set[str]) -> dict[str, Any]:
    """The event with its prompt: messages already told (here or in the trajectory) by id, new ones in full."""
    event = dict(event)
    prompt: list[Any] = []
    for message in _input(event, pool):
        known = message.get("id") in seen
        prompt.append(message["id"] if known else message)
        if not known and message.get("id"):
            seen.add(message["id"])
    event["input"] = prompt
    event.pop("input_refs", None)
    if message_id := _output(event)[2].get("id"):
        seen.add(message_id)
    return event


def _input(event: dict[str, Any], pool: list[Any]) -> list[dict[str, Any]]:
    refs = event.get("input_refs")
    if refs is None:
        return event.get("input") or []
    try:
        return [message for start, end in refs for message in pool[start:end]]
    except ValueError:
        raise RowError("the input_refs of a model event are no ranges") from None


def _number(value: Any) -> float | None:
    """A score's value as Inspect's `value_to_float` reads it; None where it is no number (Inspect: a warning and 0)."""
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    if value in _LETTERS:
        return _LETTERS[value]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _add_scores(row: Row, sample: dict[str, Any]) -> None:
    scores = sample.get("scores")
    if not isinstance(scores, dict):
        return
    for name, score in scores.items():
        number = _number(score.get("value") if isinstance(score, dict) else score)
        if number is not None:
            row["reward"] = number
            if len(scores) > 1:
                row.setdefault("details", {})["reward_scorer"] = name
            return


def _add_rest(row: Row, sample: dict[str, Any], messages: list[Any], log: Any) -> None:
    """What is neither message nor event: details that people ask for, everything else under `extra`."""
    details = row.setdefault("details", {})
    for key in _DETAILS:
        if sample.get(key) not in (None, {}, []):
            details[key] = sample[key]
    evaluation = log.get("eval") if isinstance(log, dict) else None
    if isinstance(evaluation, dict):
        details.update({key: evaluation[key] for key in ("task", "model") if evaluation.get(key)})
    if not details:
        del row["details"]
    told = {message["id"] for message in messages if isinstance(message, dict) and message.get("id")}
    rest = {k: v for k, v in sample.items() if k not in _MAPPED and k not in _DETAILS and v not in (None, {}, [])}
    texts = [message.get("content") for message in messages]
    if _repeated(rest.get("input"), texts):
        del rest["input"]
    if isinstance(output := rest.get("output"), dict):
        rest["output"] = _without_message(output, told)
    rest["id"] = sample["id"]
    rest["epoch"] = sample.get("epoch", 1)
    if log:
        rest["log"] = log
    row.setdefault("extra", {}).setdefault("inspect", {}).update(rest)


def _repeated(given: Any, texts: list[Any]) -> bool:
    if isinstance(given, str):
        return given in texts
    return isinstance(given, list) and all(isinstance(part, dict) and part.get("content") in texts for part in given)


def _without_message(output: dict[str, Any], told: set[str]) -> dict[str, Any]:
    """The sample's last output without the message that stands among the messages."""
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices:
        return output
    if (choices[0].get("message") or {}).get("id") not in told:
        return output
    slim = {key: value for key, value in output.items() if key != "completion"}
    slim["choices"] = [{**choices[0], "message": choices[0]["message"]["id"]}, *choices[1:]]
    return slim


INSPECT = Format(
    name="inspect",
    title="Inspect AI logs (.eval, .json; read: 0.3.285)",
    likes=_likes,
    decode=_decode,
    gather=_gather,
    open=_open,
    claims=_claims,
)
