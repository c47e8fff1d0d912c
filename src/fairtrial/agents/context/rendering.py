"""How steps look in a prompt, for all policies alike: as messages of a chat, or as the text of one step.

Results stand in the order of the plan, never of completion, and without times. Every tool call has exactly one result,
whatever the log is cut off at: a call that never came back gets one that says so. Thinking (`<think>` in the text, and
`Message.reasoning`) is left out unless it is asked for, in every policy by the same code.

The text of a step follows AgentFold's released inference code (Alibaba-NLP/DeepResearch, WebAgent/AgentFold/infer.py):
the lines "**Motivation:**", "**Tool call:**", "**Tool response:**". A plan of several calls puts each response
into a `<result>` of its own, which AgentFold with its one call has no need of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from fairtrial.agents.context import tags
from fairtrial.agents.log import Asked, Log, Result, Step
from fairtrial.agents.planners.plan import Node
from fairtrial.models.model import Message, ToolCall

LAST_TURN = (
    "This is the last turn: a limit is reached. Give your final answer now, in the form described above, "
    "from what you know so far. Call no tool."
)
NO_RESULT = "[no result: the run was interrupted before this call ended]"
EMPTY = "EMPTY"


def system(asked: Asked) -> tuple[Message, ...]:
    """The system message; none where nobody asks anything of the model's output."""
    return (Message(role="system", content=asked.rules),) if asked.rules.strip() else ()


def chat(step: Step, *, native: bool, thinking: bool = False, cleared: str | None = None) -> tuple[Message, ...]:
    """A step as the model's message and what came back: messages of tools (native), or one of the user.

    `cleared` stands in the place of every result that is longer than it.
    """
    said = _said(step.message, native=native, thinking=thinking)
    if said.tool_calls:
        return said, *_answers(said.tool_calls, _results(step, cleared))
    if not step.planned.plan.nodes:
        return (said,)
    return said, Message(role="user", content=f"Tool response:\n{results_text(step, cleared=cleared)}")


def step_text(step: Step, *, thinking: bool = False, cleared: str | None = None) -> str:
    """A step as text: why, the action as written, and the results in the order of the plan."""
    lines = [f"**Thinking:** {kept}"] if thinking and (kept := thought(step.message)) else []
    if step.planned.explanation:
        lines.append(f"**Motivation:** {step.planned.explanation}")
    lines.append(f"**Tool call:** {action_text(step)}")
    if step.planned.plan.nodes:
        lines.append(f"**Tool response:** {results_text(step, cleared=cleared)}")
    return "\n".join(lines)


def action_text(step: Step) -> str:
    """The action as the model wrote it, native calls as one line of JSON each."""
    calls = "\n".join(
        json.dumps({"name": call.name, "arguments": _object(call.arguments)}, ensure_ascii=False)
        for call in step.message.tool_calls
    )
    written = step.planned.action or tags.apart(step.message.content)[0]
    return "\n".join(part for part in (written.strip(), calls) if part)


def results_text(step: Step, *, cleared: str | None = None) -> str:
    """The results in the order of the plan: bare for a single call, each in a `<result>` for several."""
    nodes, texts = step.planned.plan.nodes, _results(step, cleared)
    if len(nodes) == 1:
        return texts[0]
    return "\n".join(
        f'<result id="{node.id}" tool="{node.tool}">\n{text}\n</result>'
        for node, text in zip(nodes, texts, strict=True)
    )


def closed(log: Log, messages: Sequence[Message], *, native: bool) -> tuple[Message, ...]:
    """The end of every prompt: the last rejected turn with what was wrong, and the demand for an answer, if due.

    Of several rejected turns in a row only the last is shown. The released AgentFold code asks the same prompt again
    and does not say what was wrong; here the model is told.
    """
    done = list(messages)
    if log.pending:
        message, rejected = log.pending[-1]
        said = _said(message, native=native, thinking=False)
        told = f"[rejected: {rejected.code}] {rejected.message} Nothing was run. Write the whole turn again."
        done.append(said)
        if said.tool_calls:
            done += _answers(said.tool_calls, [told] * len(said.tool_calls))
        else:
            done.append(Message(role="user", content=told))
    if log.limited is not None:
        done = list(and_user(done, LAST_TURN))
    return tuple(done)


def and_user(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """Say `text` as the user: at the end of the user's message where that is the last one (roles go on alternating)."""
    if messages and messages[-1].role == "user":
        last = messages[-1]
        return *messages[:-1], Message(role="user", content=f"{last.content}\n\n{text}")
    return *messages, Message(role="user", content=text)


def steps_chat(
    steps: Iterable[Step], *, native: bool, thinking: bool = False, cleared: Sequence[str | None] | None = None
) -> tuple[Message, ...]:
    """Steps as messages, one after the other; `cleared` as in `chat`, one entry for each step."""
    shown: list[Message] = []
    for index, step in enumerate(steps):
        shown += chat(step, native=native, thinking=thinking, cleared=cleared[index] if cleared else None)
    return tuple(shown)


def _said(message: Message, *, native: bool, thinking: bool) -> Message:
    """The model's message for a later prompt; itself, with its token ids, where nothing has to change."""
    calls = tuple(_parsable(call) for call in message.tool_calls) if native else ()
    text, thought = tags.apart(message.content)
    same = calls == message.tool_calls and bool(message.content or calls)
    if thinking and (thought or message.reasoning):
        if same and (thought or message.token_ids is not None):
            return message
        text = message.content if thought else f"<think>\n{message.reasoning}\n</think>\n{message.content}"
    elif same and not thought and not message.reasoning:
        return message
    return Message(role="assistant", content=text or ("" if calls else "(empty)"), tool_calls=calls)


def thought(message: Message) -> str:
    """What the model thought, from the text and from the field of its own."""
    return "\n".join(part for part in (message.reasoning or "", tags.apart(message.content)[1]) if part.strip())


def _parsable(call: ToolCall) -> ToolCall:
    """Servers refuse earlier calls whose arguments are no JSON object; such text becomes a string in one."""
    if isinstance(_object(call.arguments), dict):
        return call
    return call.model_copy(update={"arguments": json.dumps({"malformed": call.arguments}, ensure_ascii=False)})


def _object(arguments: str) -> object:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _results(step: Step, cleared: str | None) -> list[str]:
    came = {result.node: result for result in step.results}
    texts = [_result(came.get(node.id), node) for node in step.planned.plan.nodes]
    return texts if cleared is None else [cleared if len(text) > len(cleared) else text for text in texts]


def _result(result: Result | None, node: Node) -> str:
    if result is None:
        return NO_RESULT
    text = result.text or "(empty)"
    return text if result.status == "ok" else f"[{result.status}] {text}"


def _answers(calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
    """One message of a tool for each call; the planner makes one node of each call, in their order."""
    padded = [*texts, *[NO_RESULT] * len(calls)]
    return [
        Message(role="tool", content=text, tool_call_id=call.id, name=call.name)
        for call, text in zip(calls, padded, strict=False)
    ]
