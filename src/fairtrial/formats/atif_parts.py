"""Pieces of ATIF that reading and writing share: content parts, code tools, metrics, and what travels in `extra`.

Every object of ATIF has a free `extra`. What a trajectory of ours says and ATIF has no field for is written there under
`fairtrial` and taken out again when read; a null in it takes a field away that reading would put there by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairtrial.core.trajectory import token_delta
from fairtrial.formats.items import Item
from fairtrial.formats.languages import normal_language

CARRIED = "fairtrial"
NAME = "atif"

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp"}
_MEDIA_TYPES = frozenset(f"image/{kind}" for kind in _SUFFIXES.values())
_CODE_TOOLS = {"bash": ("execute_bash", "command"), "python": ("execute_ipython_cell", "code")}
_USAGE = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cached_tokens": "cached_tokens",
    "cost_usd": "cost_usd",
}
_CALL_REST = ("weights_version", "sampling", "finish_reason")


def media_type(path: str) -> str:
    """The media type of an image by its data URL or suffix; PNG where neither tells (ATIF demands one of four)."""
    if path.startswith("data:"):
        told = path[5:].partition(";")[0].partition(",")[0]
        return told if told in _MEDIA_TYPES else "image/png"
    suffix = path[path.rfind(".") :].lower() if "." in path[-6:] else ""
    return f"image/{_SUFFIXES.get(suffix, 'png')}"


def part(item: Item) -> dict[str, Any]:
    """A text or image item as a content part."""
    if item["class_"] == "image_observation":
        path = item["content"]
        return {"type": "image", "source": {"media_type": media_type(path), "path": path}}
    return {"type": "text", "text": item["content"]}


def content_of(items: Sequence[Item]) -> Any:
    """A message or result: one text as text, anything else as parts."""
    if len(items) == 1 and items[0]["class_"] == "text_observation":
        return items[0]["content"]
    return [part(item) for item in items]


def items_of(content: Any, source: str) -> list[Item]:
    """The items of a message or result; the later ones joined. Audio is text that gives its path."""
    if not isinstance(content, list):
        return [{"class_": "text_observation", "content": "" if content is None else content, "source": source}]
    items: list[Item] = []
    for given in content:
        if given["type"] == "text":
            item: Item = {"class_": "text_observation", "content": given["text"], "source": source}
        elif given["type"] == "image":
            item = {"class_": "image_observation", "content": given["source"]["path"], "source": source}
        else:
            item = {"class_": "text_observation", "content": given["source"]["path"], "source": source}
            item["name"] = given["type"]
        if items:
            item["joined"] = True
        items.append(item)
    return items or [{"class_": "text_observation", "content": "", "source": source}]


def unsaid(rest: dict[str, Any], raw: Any, source: str, place: int) -> dict[str, Any]:
    """The fields of `rest` that reading the message or result as it was given (`raw`) does not say by itself."""
    if not isinstance(raw, list) or not rest:
        return rest
    items = items_of(raw, source)
    said = items[place] if place < len(items) else {}
    return {key: value for key, value in rest.items() if key not in said or said[key] != value}


def text_of(message: Any) -> str:
    """An agent's message as text: the text parts, a line each."""
    if isinstance(message, list):
        return "\n".join(given["text"] for given in message if given["type"] == "text")
    return "" if message is None else message


def code_call(item: Item) -> dict[str, Any]:
    """The tool name, arguments and extra of a code action."""
    name, argument = _CODE_TOOLS.get(normal_language(item["language"]), ("execute_code", "content"))
    arguments = {argument: item["content"]}
    if name == "execute_code":
        arguments = {"language": item["language"], **arguments}
    extra = {"adp_class": "code_action", "language": item["language"]}
    return {"function_name": name, "arguments": arguments, "extra": extra}


def read_code(call: dict[str, Any]) -> Item | None:
    """The code action that `code_call` wrote, or None where this call is another."""
    extra, arguments = call.get("extra"), call.get("arguments")
    if not isinstance(extra, dict) or extra.get("adp_class") != "code_action" or not isinstance(arguments, dict):
        return None
    for argument in ("command", "code", "content"):
        if isinstance(content := arguments.get(argument), str):
            item: Item = {"class_": "code_action", "language": extra.get("language"), "content": content}
            same = isinstance(item["language"], str) and code_call(item)
            if same and same["function_name"] == call["function_name"] and same["arguments"] == arguments:
                return item
    return None


def take_carried(extra: Any) -> tuple[dict[str, Any], Any]:
    """What we carried in this `extra`, and the extra without it (None where nothing else is in it)."""
    if not isinstance(extra, dict) or not isinstance(extra.get(CARRIED), dict):
        return {}, extra
    rest = {key: value for key, value in extra.items() if key != CARRIED}
    return extra[CARRIED], rest or None


def apply(item: Item, carried: dict[str, Any]) -> None:
    """Put carried fields on an item; null takes one away."""
    for key, value in carried.items():
        if value is None:
            item.pop(key, None)
        else:
            item[key] = {**value, **item.get("extra", {})} if key == "extra" else value


def rest_of(item: Item, written: frozenset[str]) -> dict[str, Any]:
    """The fields of an item that ATIF has no place for; of `extra`, those of other formats."""
    rest = {key: value for key, value in item.items() if key not in written and key != "extra"}
    if "extra" in item and (foreign := {name: value for name, value in item["extra"].items() if name != NAME}):
        rest["extra"] = foreign
    return rest


def with_extra(value: dict[str, Any], kept: Any, carried: dict[str, Any]) -> None:
    """Set `extra` from what a file had there and what we carry."""
    if carried:
        value["extra"] = {**(kept if isinstance(kept, dict) else value.get("extra", {})), CARRIED: carried}
    elif kept is not None:
        value["extra"] = kept


def read_metrics(
    metrics: dict[str, Any], model: str, calls: int, sequences: list[list[int]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model call, and the metrics that writing it would not give back. `sequences` grows by prompt + completion."""
    carried, extra = take_carried(metrics.get("extra"))
    left = {key: value for key, value in metrics.items() if key != "extra"}
    if extra is not None or (metrics.get("extra", 0) is None):
        left["extra"] = extra
    call: dict[str, Any] = {"model": model}
    usage: dict[str, Any] = {}
    for key, ours in _USAGE.items():
        if _is_count(left.get(key), float if key == "cost_usd" else int):
            usage[ours] = left.pop(key)
    if usage:
        call["usage"] = {"calls": calls, **usage}
    prompt, completion = left.get("prompt_token_ids"), left.get("completion_token_ids")
    sequence: list[int] = []
    if isinstance(prompt, list) and _are_ids(prompt):
        delta = token_delta(prompt, sequences)
        call["prompt"] = {"append": list(delta.append)} if delta.append else {}
        if delta.base is not None:
            call["prompt"] |= {"base": delta.base, "keep": delta.keep}
        sequence = left.pop("prompt_token_ids")
    if isinstance(completion, list) and _are_ids(completion):
        call["completion_ids"] = completion
        del left["completion_token_ids"]
        logprobs = left.get("logprobs")
        if isinstance(logprobs, list) and len(logprobs) == len(completion) and all(_is_number(p) for p in logprobs):
            call["logprobs"] = left.pop("logprobs")
        sequence = sequence + completion if "prompt" in call else []
    sequences.append(sequence)
    apply(call, carried)
    return call, left


def write_metrics(call: dict[str, Any], calls: int, sequences: list[list[int]]) -> dict[str, Any]:
    """The metrics of a model call. `calls`: how many inferences the step says it had."""
    metrics: dict[str, Any] = {}
    usage = call.get("usage", {})
    for key, ours in _USAGE.items():
        if ours in usage:
            metrics[key] = usage[ours]
    carried = {key: call[key] for key in _CALL_REST if key in call}
    if usage and (not metrics or usage.get("calls") != calls):
        carried["usage"] = usage
    sequence: list[int] = []
    if (prompt := call.get("prompt")) is not None:
        base = prompt.get("base")
        kept = [] if base is None else sequences[base][: prompt.get("keep", 0)]
        metrics["prompt_token_ids"] = sequence = [*kept, *prompt.get("append", ())]
    if (completion := call.get("completion_ids")) is not None:
        metrics["completion_token_ids"] = list(completion)
        sequence = [*sequence, *completion] if prompt is not None else []
    if "logprobs" in call:
        metrics["logprobs"] = list(call["logprobs"])
    sequences.append(sequence)
    with_extra(metrics, None, carried)
    return metrics


def names_model(model: str, agent_model: Any, metrics: Any) -> bool:
    """Whether a step must name its model: the agent's default does not say it, or nothing else tells of a call."""
    return not metrics or (model != agent_model and not (model == "unknown" and agent_model is None))


def _is_count(value: Any, kind: type) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_ids(value: list[Any]) -> bool:
    return all(type(id) is int for id in value)
