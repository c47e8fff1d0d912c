"""One session of an agent: its calls of the model become pieces of one trajectory.

What is recorded is a line of messages in the order in which they first appeared, each one once. A call whose prompt
is everything recorded so far needs no further word. An agent that rewrites its history (folds it, drops or edits
messages, asks from an earlier point, runs several conversations in one session) makes a branch: what is new is
recorded as new, and `extra.gateway.prompts` names the exact prompt of the call by message numbers, as ranges
[first, past) over the messages of `content` (an item that is `joined` belongs to the message before it). With that,
`prompt_of` gives the prompt of every call message for message, and the token ids are in `model_calls`, so nothing is
lost and nothing is tokenised again. Other facts beside the vocabulary of a trajectory, all in `extra.gateway`:

    failures  calls that brought no reply: when, why, after how many calls, and their prompt
    tools     from which call on which of the trajectory's tools were offered, where that changed
    waits     a call's tries that failed before its reply came, and the seconds spent waiting

An assistant's message that no call of this session produced (examples, edited replies) is recorded with `loss` false.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairtrial.models.gateway.messages import ACTIONS, ROOT, SPACE, Item, chain, groups, items_of, key, prompt_items
from fairtrial.models.model import Message, Reply, Request

Piece = dict[str, Any]
_NONE = array("q")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call brought no reply."""

    cause: str
    """Short and machine-readable: "hang_up", "rate_limit", "context" ..."""
    message: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the names of its prefixes."""

    request: Request
    keys: tuple[bytes, ...]
    chain: tuple[bytes, ...]


def asked(request: Request) -> Asked:
    """The request as conversations are compared."""
    if request.messages is None:
        keys = (key(prompt_items(request)),)
    else:
        keys = tuple(key(items_of(message, {})) for message in request.messages)
    return Asked(request, keys, tuple(chain(keys)))


@dataclass(slots=True)
class _Node:
    """A prefix that some call's prompt or reply ended or went through."""

    number: int
    """Of its last message."""
    conversation: list[int]
    """Message numbers of the latest conversation that went through here."""


class Recorder:
    """What a session knows of its conversations. `apply` is the only thing that changes it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.end = ROOT
        """The chain at which the latest call ended."""
        self.replies: list[bytes] = []
        """The chain behind each reply."""
        self.calls = 0
        self._nodes: dict[bytes, _Node] = {}
        self._keys: list[bytes] = []
        self._unmistakable: dict[bytes, int] = {}
        self._names: dict[str, str] = {}
        self._ids: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._sequences: list[array[int]] = []
        self._tools: list[Any] = []
        self._offered: list[int] = []
        self._told_tools = self._started = False

    # -- reading ---------------------------------------------------------------------------------------------------

    def with_ids(self, one: Asked, model: str) -> Request:
        """The request with the ids of the messages that `model` sampled put back, so that its prompt continues them."""
        messages = one.request.messages
        if messages is None or not self._ids:
            return one.request
        numbers = self._known(one)
        made = [self._with_ids(*pair, model) for pair in zip(messages, numbers, strict=True)]
        return one.request.model_copy(update={"messages": tuple(made)})

    def _with_ids(self, message: Message, number: int | None, model: str) -> Message:
        known = self._ids.get(-1 if number is None else number)
        if known is None or known[0] != model or message.role != "assistant":
            return message
        return message.model_copy(update={"token_ids": known[1]})

    def _known(self, one: Asked) -> list[int | None]:
        """The number of each message of a prompt; None for those that are new.

        The longest prefix that an earlier conversation had; behind it, messages that this conversation has further
        on, in its order, and of any other those that cannot be mistaken: replies, and results of calls. A user who
        says the same words again has said something new.
        """
        numbers: list[int | None] = []
        node = None
        for at in one.chain:
            if (found := self._nodes.get(at)) is None:
                break
            node = found
            numbers.append(node.number)
        rest = one.keys[len(numbers) :]
        later = list(self._latest if node is None else node.conversation)[len(numbers) :]
        for one_key in rest:
            place = next((i for i, number in enumerate(later) if self._keys[number] == one_key), None)
            numbers.append(self._unmistakable.get(one_key) if place is None else later[place])
            later = later if place is None else later[place + 1 :]
        return numbers

    @property
    def _latest(self) -> list[int]:
        node = self._nodes.get(self.end)
        return [] if node is None else node.conversation

    # -- writing: pieces -------------------------------------------------------------------------------------------

    def answered(self, one: Asked, reply: Reply, at: str) -> Piece:
        """The piece of a call and its reply. `at`: ISO 8601, when the reply was complete."""
        prompt, fresh = self._prompt(one, at)
        count = len(self._keys) + len(fresh)
        said = items_of(reply.message, {})
        for item in said:
            item |= {"model_call": self.calls, "timestamp": at}
        if (ids := reply.message.token_ids) is not None and ids != reply.completion_ids:
            said[0].setdefault("extra", {})[SPACE] = {"token_ids": list(ids)}
        own: dict[str, Any] = {}
        if prompt != list(range(count)):
            own["prompts"] = [{"call": self.calls, "messages": _ranges(prompt)}]
        if reply.attempts:
            tries = [asdict(attempt) for attempt in reply.attempts]
            own["waits"] = [{"call": self.calls, "waited_s": reply.waited_s, "failed_tries": tries}]
        call = reply.call(self._sequences).model_dump(mode="json", exclude_none=True)
        piece = self._piece([*fresh, said], own, one.request.tools)
        return piece | {"model_calls": [call]}

    def failed(self, one: Asked, failure: Failure, at: str) -> Piece:
        """The piece of a call that brought no reply."""
        prompt, fresh = self._prompt(one, at)
        note: dict[str, Any] = {"after_calls": self.calls, **asdict(failure), "timestamp": at}
        if prompt != list(range(len(self._keys) + len(fresh))):
            note["messages"] = _ranges(prompt)
        return self._piece(fresh, {"failures": [note]}, one.request.tools)

    def refused(self, failure: Failure, at: str) -> Piece:
        """The piece of a call that never reached the model, and of which nothing was read."""
        note = {"after_calls": self.calls, **asdict(failure), "timestamp": at, "messages": []}
        return self._piece([], {"failures": [note]}, None)

    def _prompt(self, one: Asked, at: str) -> tuple[list[int], list[list[Item]]]:
        """The numbers of a prompt's messages, and the items of each message that is new."""
        fresh: list[list[Item]] = []
        numbers: list[int] = []
        names = dict(self._names)
        for place, number in enumerate(self._known(one)):
            if number is None:
                number = len(self._keys) + len(fresh)
                messages = one.request.messages
                made = prompt_items(one.request) if messages is None else items_of(messages[place], names)
                for item in made:
                    item["timestamp"] = at
                    if item["class_"] in ACTIONS:
                        item["loss"] = False
                names |= _functions(made)
                fresh.append(made)
            numbers.append(number)
        return numbers, fresh

    def _piece(self, content: list[list[Item]], own: dict[str, Any], tools: Sequence[Any] | None) -> Piece:
        """`tools`: those offered; None where that is not known."""
        piece: Piece = {} if self._started else {"id": self.id}
        piece["content"] = [item for group in content for item in group]
        if tools is not None:
            known = list(self._tools)
            known += [tool for place, tool in enumerate(tools) if tool not in known and tool not in tools[:place]]
            offered = sorted({known.index(tool) for tool in tools})
            if fresh := known[len(self._tools) :]:
                piece["tools"] = fresh
            if offered != self._offered and self._started:
                before = [] if self._told_tools else [{"call": 0, "offered": self._offered}]
                own = own | {"tools": [*before, {"call": self.calls, "offered": offered}]}
        if own:
            piece["extra"] = {SPACE: own}
        return piece

    # -- what a piece changes --------------------------------------------------------------------------------------

    def apply(self, piece: Piece) -> None:
        """Take in a piece that is on disk now, or was found there."""
        own: dict[str, Any] = (piece.get("extra") or {}).get(SPACE) or {}
        self._take_tools(piece.get("tools") or [], own.get("tools"))
        for group in groups(piece.get("content") or []):
            self._keys.append(key(group))
            self._names |= _functions(group)
            if "model_call" in group[0] or "call_id" in group[0]:
                self._unmistakable[self._keys[-1]] = len(self._keys) - 1
        for call in piece.get("model_calls") or []:
            reply = len(self._keys) - 1
            self._take_ids(piece["content"], call, reply)
            noted = own.get("prompts")
            prompt = _numbers(noted[0]["messages"]) if noted else list(range(reply))
            self._take_conversation([*prompt, reply])
            self.replies.append(self.end)
            self.calls += 1
        for note in own.get("failures") or []:
            prompt = _numbers(note["messages"]) if "messages" in note else list(range(len(self._keys)))
            if prompt:
                self._take_conversation(prompt)
        self._started = True

    def _take_tools(self, fresh: list[Any], noted: list[dict[str, Any]] | None) -> None:
        self._tools += fresh
        if noted:
            self._offered, self._told_tools = noted[-1]["offered"], True
        elif not self._started:
            self._offered = list(range(len(self._tools)))

    def _take_conversation(self, numbers: list[int]) -> None:
        held = self._latest
        if held and held == numbers[: len(held)]:  # it goes on: the prefixes on the way share the list
            rest, start = numbers[len(held) :], self.end
            held += rest
            numbers = held
        else:
            rest, start = numbers, ROOT
        names = chain((self._keys[number] for number in rest), start)
        for number, name in zip(rest, names, strict=True):
            self._nodes[name] = _Node(number, numbers)
        self.end = names[-1] if names else start

    def _take_ids(self, content: list[Item], call: dict[str, Any], reply: int) -> None:
        completion = tuple(call.get("completion_ids") or ())
        first = next(item for item in reversed(content) if not item.get("joined"))
        said = ((first.get("extra") or {}).get(SPACE) or {}).get("token_ids", completion)
        if said:
            self._ids[reply] = (call["model"], tuple(said))
        if (delta := call.get("prompt")) is None:
            self._sequences.append(_NONE)
            return
        base = delta.get("base")
        whole = array("q") if base is None else self._sequences[base]
        if base is not None and len(whole) == delta["keep"]:
            self._sequences[base] = _NONE  # whatever it shares with a later prompt, its continuation shares too
        else:
            whole = whole[: delta.get("keep", 0)]
        whole.extend(delta.get("append", ()))
        whole.extend(completion)
        self._sequences.append(whole)


def prompt_of(trajectory: dict[str, Any], call: int) -> list[list[Item]]:
    """The messages, each as its items, that were the prompt of a recorded call: exactly what the agent sent."""
    messages = list(groups(trajectory["content"]))
    own: dict[str, Any] = (trajectory.get("extra") or {}).get(SPACE) or {}
    for note in own.get("prompts") or []:
        if note["call"] == call:
            return [messages[number] for number in _numbers(note["messages"])]
    reply = next(i for i, message in enumerate(messages) if message[0].get("model_call") == call)
    return messages[:reply]


def _functions(group: list[Item]) -> dict[str, str]:
    """Call id -> function of a message's calls."""
    return {item["call_id"]: item["function"] for item in group if item["class_"] == "api_action"}


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers as ranges [first, past), in their order."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def _numbers(ranges: list[list[int]]) -> list[int]:
    return [number for first, past in ranges for number in range(first, past)]
