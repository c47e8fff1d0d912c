"""A scripted model that knows the gold decomposition of real questions, but reads: the upper bound of the pipeline.

It searches with the questions of the decomposition, opens a page only where a search result names it, and knows a
step's value only from then on. So it scores what `Documents.follow` says that the decomposition allows; a policy or a
planner with which it scores less has lost something on the way.

It plays every policy and planner and finds out from the prompt which ones: it compares the system message with their
rules. Nothing is kept between calls. What it waits for it writes down before each action and reads there again; so with
what it knows, unless the policy asks for folds: then its folds alone say that. A fact that the prompt no longer says is
lost to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic import Field, field_validator

from fairtrial.agents import reader as reading
from fairtrial.agents.context import rendering
from fairtrial.agents.context.folding import Folding, blocks_in, range_in
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.dialects import Spec, offered, planners, policies, spoken, to_read
from fairtrial.agents.log import Folded
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template
from fairtrial.agents.planners.planner import Move, Planner
from fairtrial.core.clock import Timer
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.limits import Usage
from fairtrial.models import byte_chat
from fairtrial.models.model import (
    Delta,
    Feature,
    Message,
    Model,
    Pair,
    Reply,
    Request,
    Score,
    ToolCall,
    UnsupportedError,
)
from fairtrial.tasks.worlds.decomposition import fill
from fairtrial.tasks.worlds.real_text import Documents, DocumentsSettings
from fairtrial.tasks.worlds.world import Episode, GoldStep

UNKNOWN = "unknown"
"""Its answer where a page was not found."""
_WHICH = "Title of the document that says: "
_NOTES = re.compile(r"My notes: (\{.*\})")
_FACTS = re.compile(r"Facts: (\{.*\})")
_TRIES = 4
"""Calls of one kind for one step, where tools fail."""
_BEGINNING = 160
"""Characters by which a page is recognised."""
_ALONE = ("react",)
_INDEPENDENT = ("react", "native", "joined")


class GoldSettings(Config):
    """Settings of the kind of model "gold"; questions and documents as in the world."""

    questions: tuple[str, ...] = Field(min_length=1)
    documents: str | None = None
    name: str = "gold-reader"

    @field_validator("questions", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return tuple(given.split(",")) if isinstance(given, str) else given


class Gold:
    """The kind of model "gold": `gold:musique.json`, or several files with commas between them."""

    settings_type: type[Config] = GoldSettings
    argument = "questions"

    @staticmethod
    def check(settings: GoldSettings, base: Path) -> None:
        """As `open`, which loads no weights."""
        Gold.open(settings, base)

    @staticmethod
    def files(settings: GoldSettings, base: Path) -> tuple[Path, ...]:
        """The questions and the documents."""
        return tuple(base / name for name in (*settings.questions, settings.documents) if name is not None)

    @staticmethod
    def open(settings: GoldSettings, base: Path) -> Model:
        """The model. Raises UserError for files that cannot be used."""
        world = Documents(DocumentsSettings(questions=settings.questions, documents=settings.documents), base)
        return GoldReader(world, settings.name)


@dataclass(slots=True)
class _State:
    """What the model has written down, and what has come of its last calls."""

    known: dict[str, str] = field(default_factory=dict[str, str])
    lost: list[str] = field(default_factory=list[str])
    waits: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])
    """(step, "search" | "visit" | "plan", tries) of the last calls, in the order of their results."""


class GoldReader:
    """See the module."""

    def __init__(self, world: Documents, name: str = "gold-reader") -> None:
        self._world, self._name = world, name
        self._episodes = sorted(world.episodes(), key=lambda episode: -len(episode.question))
        self._policies, self._planners = list(policies(lambda _: 0)), list(planners())

    @property
    def name(self) -> str:
        """As the settings say."""
        return self._name

    @property
    def features(self) -> frozenset[Feature]:
        """It calls tools; nothing of it is drawn."""
        return frozenset(("tools",))

    @property
    def context(self) -> int | None:
        """It reads on."""
        return None

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Play the next turn. Raises UserError for a question that is not in the files, or an unknown dialect."""
        if request.messages is None:
            raise UnsupportedError(f'"{self._name}" plays episodes; it continues no text')
        text, calls = self._reply(request.messages, request.tools)
        if on_delta is not None and text:
            on_delta(Delta(text=text))
        said = len(byte_chat.encode(text)) + sum(len(byte_chat.encode(call.arguments)) for call in calls)
        heard = len(byte_chat.conversation_ids(request.messages, list(request.tools)))
        return Reply(
            message=Message(role="assistant", content=text, tool_calls=calls),
            finish="tool_calls" if calls else "stop",
            model=self._name,
            usage=Usage(calls=1, input_tokens=heard, output_tokens=said),
        )

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Raises UnsupportedError: it has no probabilities."""
        raise UnsupportedError(f'"{self._name}" plays episodes; it scores no text')

    async def close(self) -> None:
        """Nothing to release."""

    def _reply(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[str, tuple[ToolCall, ...]]:
        system = "\n\n".join(message.content for message in messages if message.role == "system")
        said = [message for message in messages if message.role != "system"]
        found = self._planner(system, tools)
        if found is not None:
            return self._turn(system, said, *found)
        asked = said[-1].content
        if (reads := to_read(asked)) is not None:
            return self._read(*reads), ()
        return self._summary(asked), ()

    def _turn(self, system: str, said: list[Message], spec: Spec, planner: Planner) -> tuple[str, tuple[ToolCall, ...]]:
        episode = self._episode(said[0].content)
        found = spoken(self._policies, lambda each: each.rules, system)
        assert found is not None, "append has no rules: it always fits"
        policy = found[1]
        if said[-1].content.startswith("[rejected: "):
            raise UserError(f'"{self._name}" has no other turn than one that was refused: {said[-1].content}')
        state = self._state(episode, said)
        answer = state.known.get(episode.plan[-1].id) if episode.plan else UNKNOWN
        if answer is None and not state.lost and rendering.LAST_TURN not in said[-1].content:
            plan = Plan(tuple(self._nodes(episode, state, system, spec)))
            return self._act(policy, planner, said, plan, state)
        answer = answer or UNKNOWN
        text, _ = planner.write(Move(answer=answer))
        return policy.write(None, _notes(state, state.known)) + text, ()

    def _act(
        self, policy: ContextPolicy, planner: Planner, said: Sequence[Message], plan: Plan, state: _State
    ) -> tuple[str, tuple[ToolCall, ...]]:
        text, calls = planner.write(Move(plan=plan))
        if not isinstance(policy, Folding):
            return policy.write(None, _notes(state, state.known)) + text, calls
        shown = "\n".join(message.content for message in said)
        blocks, latest = blocks_in(shown)
        fold = None
        if latest is not None:
            start, end = range_in(shown) or (latest, latest)
            told = _facts("\n".join(block.text for block in blocks if block.start < start))
            fold = Folded(start, end, _told({step: value for step, value in state.known.items() if step not in told}))
        return policy.write(fold, _notes(state, {})) + text, calls

    def _episode(self, first: str) -> Episode:
        for episode in self._episodes:
            if episode.question in first:
                return episode
        raise UserError(
            f'"{self._name}" is asked what is no question of its files, or in a form that it does not know: '
            f"{' '.join(first.split())[:120]}"
        )

    def _summary(self, asked: str) -> str:
        """What the steps that are to be summarised say of what it looks for."""
        episode = self._episode(asked)
        earlier = asked.partition("### Earlier notes\n")[2].partition("\n\n### ")[0]
        told = [f"{step.id} is {step.value}." for step in episode.plan if step.page and self._opened(asked, step)]
        return "\n".join([*([earlier] if earlier else []), *told]) or "Nothing is known yet."

    def _planner(self, system: str, tools: Sequence[dict[str, Any]]) -> tuple[Spec, Planner] | None:
        """The planner that the system message describes."""
        schemas = offered(system, tools)
        fitting = [each for each in self._planners if each[1].native == bool(tools)] if schemas else []
        return spoken(fitting, lambda each: each.rules(schemas), system)

    def _state(self, episode: Episode, said: Sequence[Message]) -> _State:
        """Its last notes, with what has come of the calls that they announce."""
        shown = "\n".join(message.content for message in said)
        found = list(_NOTES.finditer(shown))
        if not found:
            return self._settled(episode, _State())
        noted = json.loads(found[-1][1])
        state = _State(_facts(shown) | noted["known"], noted["lost"])
        steps = {step.id: step for step in episode.plan}
        results = _results(said)
        for name, kind, tries in noted["next"]:
            size = 4 if kind == "plan" else 1
            mine, results = results[:size], results[size:]
            self._take(state, steps[name], kind, tries, mine)
        return self._settled(episode, state)

    def _opened(self, text: str, step: GoldStep) -> bool:
        """Whether a text holds the beginning of the step's page."""
        page = " ".join(self._world.page(cast("str", step.page)).split())
        return page[:_BEGINNING] in " ".join(text.split())

    def _take(self, state: _State, step: GoldStep, kind: str, tries: int, results: Sequence[str]) -> None:
        assert step.page is not None
        if kind == "search" and any(_names_page(text, step.page) for text in results):
            state.waits.append((step.id, "visit", 0))
        elif kind != "search" and any(self._opened(text, step) for text in results):
            state.known[step.id] = step.value
        elif any(text.startswith("[error]") for text in results) and tries < _TRIES and kind != "plan":
            state.waits.append((step.id, kind, tries))
        else:
            state.lost.append(step.id)

    def _settled(self, episode: Episode, state: _State) -> _State:
        """With the steps that follow from what is known."""
        for step in episode.plan:
            if step.page is None and all(dep in state.known for dep in step.deps):
                state.known[step.id] = step.value
        return state

    def _nodes(self, episode: Episode, state: _State, system: str, spec: Spec) -> list[Node]:
        """The next calls; notes of them go into `state.waits`."""
        nodes: list[Node] = []
        style = spec.get("dialect", spec["id"])
        if f'"name": "{reading.NAME}"' in system and spec["id"] not in _INDEPENDENT and style not in _INDEPENDENT:
            return self._whole(episode, state)
        due = {name: (kind, tries) for name, kind, tries in state.waits}
        state.waits = []
        for step in episode.plan:
            if step.id in state.known or step.page is None or not all(dep in state.known for dep in step.deps):
                continue
            kind, tries = due.get(step.id, ("search", 0))
            args = {"title": step.page} if kind == "visit" else {"query": fill(step, state.known).strip()}
            nodes.append(Node(f"s{len(nodes) + 1}", kind, args))
            state.waits.append((step.id, kind, tries + 1))
            if spec["id"] in _ALONE:
                break
        return nodes

    def _whole(self, episode: Episode, state: _State) -> list[Node]:
        """All that is still to be found as one graph: search, choose, open, read for each step."""
        nodes: list[Node] = []
        value: dict[str, str | Ref] = dict(state.known)
        state.waits = []
        for step in episode.plan:
            if step.id in state.known or step.page is None or not all(dep in value for dep in step.deps):
                continue
            question = _template(step, value)
            ids = [f"s{len(nodes) + at}" for at in range(1, 5)]
            which = (_WHICH, *question.parts) if isinstance(question, Template) else None
            args: list[dict[str, Any]] = [
                {"query": question},
                {"question": Template(which) if which else f"{_WHICH}{question}", "document": Template((Ref(ids[0]),))},
                {"title": Ref(ids[1])},
                {"question": question, "document": Ref(ids[2])},
            ]
            for name, tool, given in zip(ids, ("search", reading.NAME, "visit", reading.NAME), args, strict=True):
                nodes.append(Node(name, tool, given, _needed(given)))
            value[step.id] = Ref(ids[3])
            state.waits.append((step.id, "plan", 1))
        return nodes

    @cached_property
    def _asked(self) -> Mapping[str, list[GoldStep]]:
        """The steps by their questions, with the gold values in place."""
        found: dict[str, list[GoldStep]] = {}
        for episode in self._episodes:
            values = {step.id: step.value.strip() for step in episode.plan}
            for step in episode.plan:
                if step.page is not None:
                    found.setdefault(fill(step, values).strip(), []).append(step)
        return found

    def _read(self, question: str, document: str) -> str:
        """The answer of a reader: what the document says of a step that it knows."""
        title = question.startswith(_WHICH)
        for step in self._asked.get(question.removeprefix(_WHICH).strip(), ()):
            page = cast("str", step.page)
            if title and _names_page(document, page):
                return page
            if not title and self._opened(document, step):
                return step.value
        return "UNKNOWN"


def _notes(state: _State, known: Mapping[str, str]) -> str:
    """What is known and waited for, on one line."""
    noted = {"known": known, "lost": state.lost, "next": state.waits}
    return "My notes: " + json.dumps(noted, ensure_ascii=False).replace("</", "<\\/")


def _told(known: Mapping[str, str]) -> str:
    """The text of a fold."""
    return f"Facts: {json.dumps(dict(known), ensure_ascii=False)}" if known else "Nothing new is known."


def _facts(shown: str) -> dict[str, str]:
    """What the folds in a prompt tell."""
    return {step: value for found in _FACTS.finditer(shown) for step, value in json.loads(found[1]).items()}


def _results(said: Sequence[Message]) -> list[str]:
    """The results of the latest step, in the order of the plan."""
    if said[-1].role == "tool":
        first = max(index for index, message in enumerate(said) if message.role != "tool") + 1
        return [message.content for message in said[first:]]
    text = said[-1].content.partition(f"\n\n{rendering.LAST_TURN}")[0]
    if said[-2:-1] and said[-2].role == "tool":  # the demand for an answer stands behind native results
        return _results(said[:-1])
    _, _, text = text.rpartition("Tool response:")
    text = text.removeprefix("**").strip()
    several = re.findall(r'^<result id="[^"\n]*" tool="[^"\n]*">\n(.*?)\n</result>$', text, re.DOTALL | re.MULTILINE)
    return several or [text]


def _names_page(results: str, title: str) -> bool:
    """Whether search results, as JSON, name a page."""
    return f'"title": {json.dumps(title, ensure_ascii=False)}' in results


def _template(step: GoldStep, values: Mapping[str, str | Ref]) -> str | Template:
    """The step's question with values, or references to them, in place."""
    if not step.deps:
        return step.question
    parts: list[str | Ref] = []
    for part in re.split(r"\{(" + "|".join(map(re.escape, step.deps)) + r")\}", step.question):
        given = values[part] if part in step.deps and len(parts) % 2 else part
        parts.append(given)
    joined: list[str | Ref] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return Template(tuple(joined)) if any(isinstance(part, Ref) for part in joined) else "".join(map(str, joined))


def _needed(args: Mapping[str, Any]) -> tuple[str, ...]:
    found = [
        ref.node
        for value in args.values()
        for ref in (value.parts if isinstance(value, Template) else (value,))
        if isinstance(ref, Ref)
    ]
    return tuple(dict.fromkeys(found))
