"""The reconstruction rule for span sources: model calls that each hold a whole prompt -> one trajectory.

A trace says what every model call was sent and gave back, not what the conversation was. Calls are put into chains: a
call continues a chain where its prompt begins with everything that the chain holds (last prompt and output). Where it
only shares a beginning, the agent's context was edited (compaction, retry, cleared results): the edit is recorded as
an item and the trajectory goes on; it is never passed off as linear. Calls that continue nothing are chains of their
own. The longest chain is the run, the others, and those of nested agents, are its sub-agents.

Messages here are OpenAI chat messages (`chat_messages`); each source translates its own into these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Message = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(slots=True)
class LlmCall:
    """One model call. `began` and `ended` compare within one source only (numbers or ISO text of one clock)."""

    id: str
    prompt: list[Message]
    output: list[Message]
    model_call: dict[str, Any] | None
    """A `ModelCall` as core dumps it; None where the span is no model call but stands for one (an agent's span)."""
    began: Any = None
    ended: Any = None
    timestamp: str | None = None
    scope: str | None = None
    """The innermost agent span around the call; None at the top of the trace."""
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class ContextEdit:
    """Call number `call` was sent a prompt that is not what the chain held before it."""

    call: int
    prompt: list[tuple[int, int]]
    """The whole new prompt: half-open ranges of the chain's messages."""
    removed: int
    """Messages that the model saw before and no longer sees."""
    replaced: dict[int, Message]
    """Messages of the chain that the new prompt shows in other words (a cleared tool result), by their number."""


@dataclass(slots=True)
class Chain:
    """One conversation: every message that was ever in its context, once, in the order in which they came."""

    scope: str | None
    calls: list[LlmCall] = field(default_factory=list[LlmCall])
    messages: list[Message] = field(default_factory=list[Message])
    spoke: dict[int, int] = field(default_factory=dict[int, int])
    """Number of a message that a call of this chain put out -> the call's number in the chain."""
    edits: dict[int, list[ContextEdit]] = field(default_factory=dict[int, list[ContextEdit]])
    """Number of the message before which edits stand -> the edits."""
    reworded: list[Message] = field(default_factory=list[Message])
    """Outputs as later prompts show them, where those differ from what the call gave back (which is kept)."""
    keys: list[Key] = field(default_factory=list[Key])
    context: list[int] = field(default_factory=list[int])
    """The messages that the next prompt should begin with."""


def chains(calls: Iterable[LlmCall], nested: dict[str | None, set[str | None]]) -> list[Chain]:
    """The chains of a trace's calls, in order of their beginning.

    `nested` gives for each agent span the agent spans around it: a chain never goes on inside an agent that it
    called, nor in the agent that called it.
    """
    found: list[Chain] = []
    calls = list(calls)
    # prompts share their messages as objects where the source could tell (all are held in `calls`)
    known: dict[int, Key] = {}
    for call in calls:
        keys: list[Key] = []
        for message in call.prompt:
            key = known.get(id(message))
            if key is None:
                key = known[id(message)] = message_key(message)
            keys.append(key)
        chain = _continued(found, call, keys, nested) or _edited(found, call, keys)
        if chain is None:
            chain = Chain(call.scope)
            found.append(chain)
        _append(chain, call, keys)
    return found


def message_key(message: Message) -> Key:
    """What makes two messages the same although a provider or framework wrote them anew.

    Role, text without outer blanks, calls by name and arguments. Reasoning and the ids of calls are left out:
    prompts often lack the first, and some sources the second.
    """
    calls, call_id = message.get("tool_calls"), message.get("tool_call_id")
    return (
        message.get("role"),
        _text(message.get("content")),
        tuple(_call_key(call) for call in calls) if calls else (),
        None if call_id is None else str(call_id),
    )


def _text(content: Any) -> Any:
    if isinstance(content, str):
        return content.strip()
    if not content:
        return ""
    if isinstance(content, list) and len(content) == 1:
        part = content[0]
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            return part["text"].strip()
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _call_key(call: dict[str, Any]) -> tuple[Any, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except ValueError:
            return function.get("name"), arguments
    return function.get("name"), orjson.dumps(arguments or {}, option=orjson.OPT_SORT_KEYS)


def _related(left: str | None, right: str | None, nested: dict[str | None, set[str | None]]) -> bool:
    """Whether one agent span is around the other."""
    return left != right and (left in nested.get(right, ()) or right in nested.get(left, ()))


def _continued(
    found: list[Chain], call: LlmCall, keys: list[Key], nested: dict[str | None, set[str | None]]
) -> Chain | None:
    """The chain that the prompt begins with, the longest one; of equals the latest. System prompts may differ."""
    body = _body(keys)
    best, size = None, 0
    for chain in reversed(found):
        if len(chain.context) <= size or _related(chain.scope, call.scope, nested) or _overlaps(chain, call):
            continue
        if chain.scope != call.scope and not chain.calls[-1].output:
            continue
        held = [chain.keys[index] for index in chain.context]
        rest = _body(held)
        if (len(rest) <= len(body) and rest and _begins(body, rest, chain, len(held))) and (
            chain.calls[-1].output or keys[: len(held)] == held
        ):
            best, size = chain, len(held)
    return best


def _body(keys: list[Key]) -> list[Key]:
    """Without the system prompt."""
    at = 0
    while at < len(keys) and keys[at][0] in ("system", "developer"):
        at += 1
    return keys[at:]


def _begins(body: list[Key], held: list[Key], chain: Chain, size: int) -> bool:
    """Whether a prompt begins with what the chain holds; its last output may stand there in other words."""
    if body[: len(held)] == held:
        return True
    last = len(held) - 1
    own = chain.context[-1] in chain.spoke
    return own and body[:last] == held[:last] and _same_speech(body[last], held[last])


def _same_speech(shown: Key, given: Key) -> bool:
    """Whether a prompt shows an output in slightly other words: a part of its text, calls written anew."""
    if shown[0] != "assistant" or given[0] != "assistant":
        return False
    if [name for name, _ in shown[2]] != [name for name, _ in given[2]]:
        return False
    if not isinstance(shown[1], str) or not isinstance(given[1], str):
        return bool(shown[2]) and shown[2] == given[2]
    if shown[2]:
        return shown[2] == given[2] or (shown[1] == given[1] != "")
    return bool(shown[1]) and bool(given[1]) and (shown[1] in given[1] or given[1] in shown[1])


def _overlaps(chain: Chain, call: LlmCall) -> bool:
    """Whether the call began before the chain's last one was over: the two run side by side."""
    ended = chain.calls[-1].ended
    if ended is None or call.began is None or type(ended) is not type(call.began):
        return False
    return call.began < ended


def _edited(found: list[Chain], call: LlmCall, keys: list[Key]) -> Chain | None:
    """The chain of the same agent whose edited context this prompt is.

    It shares more than the system prompt, or only that while the chain waits for the results of its calls.
    """
    best, score = None, 0
    for chain in reversed(found):
        if chain.scope != call.scope or _overlaps(chain, call):
            continue
        held = [chain.keys[index] for index in chain.context]
        system = len(held) - len(_body(held))
        if keys[:system] != held[:system] or len(keys) - len(_body(keys)) != system:
            continue
        shared = len(set(_body(keys)) & set(held[system:]))
        waiting = system > 0 and held[-1][0] == "assistant" and bool(held[-1][2])
        if shared + waiting > score:
            best, score = chain, shared + waiting
    return best


def _append(chain: Chain, call: LlmCall, keys: list[Key]) -> None:
    """Add a call's new messages and its output to the chain."""
    number = len(chain.calls)
    held = [chain.keys[index] for index in chain.context]
    chain.calls.append(call)
    _merge_prompt(chain, call, keys, held, number)
    if not call.output:
        return
    for message in call.output:
        chain.spoke[len(chain.messages)] = number
        chain.context.append(_add(chain, message, message_key(message)))


def _add(chain: Chain, message: Message, key: Key) -> int:
    chain.messages.append(message)
    chain.keys.append(key)
    return len(chain.messages) - 1


def _merge_prompt(chain: Chain, call: LlmCall, keys: list[Key], held: list[Key], number: int) -> None:
    """Set the chain's context to the prompt. Messages that the chain lacks are added to it."""
    before, size = chain.context, len(held)
    if keys[:size] == held:
        for index, message in zip(before, call.prompt, strict=False):
            _complete(chain, index, message)
        unspoken = number > 0 and not chain.calls[number - 1].output
        for message, key in zip(call.prompt[size:], keys[size:], strict=True):
            if unspoken and key[0] == "assistant":
                chain.spoke[len(chain.messages)] = number - 1
                unspoken = False
            chain.context.append(_add(chain, message, key))
        return
    context: list[int] = []
    replaced: dict[int, Message] = {}
    position, start = 0, len(chain.messages)
    places: dict[Key, list[int]] = {}
    for place, index in enumerate(before):
        places.setdefault(chain.keys[index], []).append(place)
    for message, key in zip(call.prompt, keys, strict=True):
        index = _known(chain, before, places, position, key)
        if index is None:
            index = _add(chain, message, key)
            context.append(index)
            continue
        position = before.index(index, position) + 1
        if chain.keys[index] != key:
            if index in chain.spoke:
                chain.reworded.append(message)
                _complete(chain, index, message)
            else:
                replaced[index] = message
        context.append(index)
    chain.context = context
    removed = len(set(before) - set(context))
    if removed or replaced or any(index >= start for index in context[: len(context) - _tail(context, start)]):
        chain.edits.setdefault(start, []).append(ContextEdit(number, _ranges(context), removed, replaced))


def _complete(chain: Chain, index: int, shown: Message) -> None:
    """Add to an output what only a later prompt says of it: the ids of its calls, its reasoning."""
    if index not in chain.spoke:
        return
    held = chain.messages[index]
    for key, value in shown.items():
        if held.get(key) is None and value is not None:
            held[key] = value
    for call, known in zip(held.get("tool_calls") or (), shown.get("tool_calls") or (), strict=False):
        if call.get("id") is None and known.get("id") is not None:
            call["id"] = known["id"]


def _tail(context: list[int], start: int) -> int:
    """How many new messages stand at the end: those that any continued conversation adds."""
    size = 0
    while size < len(context) and context[-1 - size] >= start:
        size += 1
    return size


def _known(chain: Chain, before: list[int], places: dict[Key, list[int]], position: int, key: Key) -> int | None:
    """The message of the context before that this one is: the same, a reworded output, or a changed tool result."""
    exact = places.get(key, ())
    at = bisect_left(exact, position)
    if at < len(exact):
        return before[exact[at]]
    if key[0] not in ("assistant", "tool"):
        return None
    for index in before[position:]:
        held = chain.keys[index]
        if index in chain.spoke and _same_speech(key, held):
            return index
        if key[0] == "tool" and held[0] == "tool" and key[3] is not None and held[3] == key[3]:
            return index
    return None


def _ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges
