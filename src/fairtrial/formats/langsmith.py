"""LangSmith runs (langsmith 0.15.0: SDK dumps, bulk exports, `child_runs` trees), one trajectory per trace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from fairtrial.formats.call_payloads import output_of, prompt_of
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.langchain_messages import langchain_fields, langchain_messages
from fairtrial.formats.part_messages import Memo, chat_tools
from fairtrial.formats.span_attributes import model_call, parsed
from fairtrial.formats.span_groups import Place, gatherer, group_id, is_group
from fairtrial.formats.span_tree import Kind, Node, row_of_nodes

SPACE = "langsmith"
_KINDS: dict[str, Kind] = {"llm": "llm", "chat_model": "llm", "tool": "tool", "agent": "agent"}
_TYPES = frozenset({"chain", "retriever", "embedding", "prompt", "parser", *_KINDS})
_NO_SAMPLING = frozenset({"tools", "functions", "model", "model_name", "messages", "_type"})
_THREADS = ("thread_id", "session_id", "conversation_id")


def _is_run(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("run_type"), str) and "id" in value


def _runs(value: Any) -> Iterator[dict[str, Any]]:
    """The runs of a value; those in `child_runs` stand by themselves."""
    if is_group(value):
        yield from value["spans"]
        return
    stack = list(reversed(value)) if isinstance(value, list) else [value]
    met: set[int] = set()
    while stack:
        run = stack.pop()
        if not _is_run(run) or id(run) in met:
            continue
        met.add(id(run))
        children = run.get("child_runs")
        if isinstance(children, list) and children:
            run = {key: inner for key, inner in run.items() if key != "child_runs"}
            for child in reversed(children):
                if isinstance(child, dict):
                    own = {"parent_run_id": run["id"], "trace_id": run.get("trace_id") or run["id"]}
                    stack.append({**child, **{key: inner for key, inner in own.items() if not child.get(key)}})
        yield run


def _parent(run: dict[str, Any]) -> str | None:
    if run.get("parent_run_id"):
        return str(run["parent_run_id"])
    parents = parsed(run.get("parent_run_ids"))
    if isinstance(parents, list) and parents:
        return str(parents[-1])
    order = str(run.get("dotted_order") or "").split(".")
    # <time>Z<id> of each run from the root: the one before the last is the parent
    return order[-2].rpartition("Z")[2] if len(order) > 1 else None


def _trace(run: dict[str, Any]) -> str:
    if run.get("trace_id"):
        return str(run["trace_id"])
    root = str(run.get("dotted_order") or "").split(".")[0].rpartition("Z")[2]
    return root or str(run["id"])


def _place(run: dict[str, Any]) -> Place:
    return Place(_trace(run), _parent(run) is None)


def _node(run: dict[str, Any], memo: Memo) -> Node:
    left = {key: value for key, value in run.items() if key not in ("id", "parent_run_id")}
    kind = _KINDS.get(run["run_type"], "other")
    order = run.get("dotted_order")
    node = Node(
        id=str(run["id"]),
        parent=_parent(run),
        kind=kind,
        name=str(run["name"]) if run.get("name") else None,
        whole={key: value for key, value in run.items() if key not in ("id", "parent_run_id")},
        left=left,
        began=order.rsplit(".", 1)[-1] if isinstance(order, str) and order else _time(run.get("start_time")),
        timestamp=run["start_time"] if isinstance(run.get("start_time"), str) else None,
        failed=bool(run.get("error")) or run.get("status") == "error",
    )
    if isinstance(order, str) and order and isinstance(run.get("end_time"), str):
        node.ended = _compact(run["end_time"])
    elif node.began is not None:
        node.ended = _time(run.get("end_time"))
    if kind == "tool":
        _tool(node, left)
    else:
        _call(node, left, memo)
    node.left = {key: value for key, value in left.items() if value not in (None, "", [], {})}
    return node


def _time(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _compact(time: str) -> str:
    """An ISO time as dotted_order writes it, so that the two compare."""
    digits = "".join(character for character in time[:26] if character.isdigit())
    return f"{digits[:8]}T{digits[8:]:0<12}Z"


def _call(node: Node, left: dict[str, Any], memo: Memo) -> None:
    request = prompt_of(left.pop("inputs", None), memo)
    response = output_of(left.pop("outputs", None))
    node.prompt, node.output = request.messages, response.messages
    if request.rest:
        left["inputs"] = request.rest
    if response.rest:
        left["outputs"] = response.rest
    if node.kind != "llm":
        node.output = _new(node.prompt, node.output)
        return
    extra = parsed(left.pop("extra", None))
    extra = dict(extra) if isinstance(extra, dict) else {}
    asked = parsed(extra.get("invocation_params"))
    asked = asked if isinstance(asked, dict) else {}
    sampling = {key: value for key, value in asked.items() if key not in _NO_SAMPLING and value is not None}
    node.offered = request.tools or chat_tools(asked.get("tools")) or chat_tools(asked.get("functions"))
    if asked:
        extra["invocation_params"] = {
            k: v for k, v in asked.items() if k not in sampling and k not in ("tools", "functions")
        }
    metadata = parsed(extra.get("metadata"))
    named = metadata.get("ls_model_name") if isinstance(metadata, dict) else None
    if extra:
        left["extra"] = extra
    usage = response.usage if isinstance(response.usage, dict) else {}
    details = usage.get("input_token_details") or usage.get("prompt_tokens_details") or left.get("prompt_token_details")
    details = parsed(details)
    cached = (details.get("cache_read") or details.get("cached_tokens")) if isinstance(details, dict) else None
    sent = _first(usage, "input_tokens", "prompt_tokens") or left.get("prompt_tokens")
    given = _first(usage, "output_tokens", "completion_tokens") or left.get("completion_tokens")
    node.model_call = model_call(
        response.model or named or asked.get("model") or asked.get("model_name") or request.model,
        sent=sent,
        given=given,
        cached=cached,
        cost=_number(left.get("total_cost")),
        sampling=sampling,
        finish=response.finish,
    )


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _first(usage: dict[str, Any], *names: str) -> Any:
    return next((usage[name] for name in names if usage.get(name) is not None), None)


def _new(prompt: list[Any], output: list[Any]) -> list[Any]:
    """A graph's output repeats its whole state: the messages that its input lacks."""
    return output[len(prompt) :] if len(output) > len(prompt) and output[: len(prompt)] == prompt else output


def _tool(node: Node, left: dict[str, Any]) -> None:
    inputs = parsed(left.pop("inputs", None))
    if isinstance(inputs, dict) and inputs.keys() == {"input"}:
        inputs = _literal(inputs["input"])
    node.arguments = inputs
    outputs = parsed(left.pop("outputs", None))
    if isinstance(outputs, dict) and len(outputs) == 1:
        outputs = next(iter(outputs.values()))
    messages = langchain_messages(outputs)
    if messages:
        fields = (langchain_fields(outputs) or ("", {}))[1]
        node.call_id = messages[0].get("tool_call_id")
        node.result = messages[0].get("content")
        node.failed = node.failed or fields.get("status") == "error"
    else:
        node.result = outputs
    if node.result is None and left.get("error"):
        node.result = str(left["error"])


def _literal(value: Any) -> Any:
    """LangChain writes a tool's arguments as JSON or as Python prints a dict."""
    value = parsed(value)
    if isinstance(value, str) and value[:1] == "{" and len(value) < 100_000:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def _likes(value: Any) -> int:
    if is_group(value):
        value = next(iter(value["spans"]), None) if isinstance(value["spans"], list) else None
    if not _is_run(value) or value["run_type"] not in _TYPES:
        return 0
    marks = value.keys() & {"dotted_order", "trace_id", "parent_run_id", "parent_run_ids", "inputs", "child_runs"}
    return 93 if len(marks) > 1 else 60 if marks else 0


def _decode(value: Any, notes: Notes) -> Row:
    runs = [run for run in _runs(value) if _is_run(run)]
    if not runs:
        raise RowError("holds no LangSmith runs")
    traces = list(dict.fromkeys(_trace(run) for run in runs))
    if len(traces) > 1 and not is_group(value):
        raise RowError(f"holds runs of {len(traces)} traces; read the file as a whole to have them grouped")
    id = group_id(value, notes) if is_group(value) else traces[0]
    runs.sort(key=lambda run: str(run.get("dotted_order") or run.get("start_time") or ""))
    memo = Memo()
    row = row_of_nodes(id, SPACE, [_node(run, memo) for run in runs], notes)
    _add_feedback(row, runs)
    return row


def _add_feedback(row: Row, runs: list[dict[str, Any]]) -> None:
    """Feedback as details; the reward where exactly one kind of feedback has a number. The thread, if there is one."""
    feedback: dict[str, Any] = {}
    for run in runs:
        told = parsed(run.get("feedback_stats"))
        if isinstance(told, dict):
            for key, value in told.items():
                feedback.setdefault(key, value)
    details = row.setdefault("details", {})
    if feedback:
        details["feedback"] = feedback
        numbers = [entry.get("avg") for entry in feedback.values() if isinstance(entry, dict)]
        numbers = [number for number in numbers if isinstance(number, int | float) and not isinstance(number, bool)]
        if len(numbers) == 1:
            row["reward"] = float(numbers[0])
    extra = parsed(runs[0].get("extra"))
    metadata = parsed(extra.get("metadata")) if isinstance(extra, dict) else None
    if isinstance(metadata, dict):
        thread = next((metadata[key] for key in _THREADS if metadata.get(key)), None)
        if thread is not None:
            details["thread"] = str(thread)
    if not details:
        del row["details"]


LANGSMITH = Format(
    name=SPACE,
    title="LangSmith runs (read: langsmith 0.15.0, langchain-core 1.7.2)",
    likes=_likes,
    decode=_decode,
    gather=gatherer(_runs, _place),
)
