"""Which planner and which policy a prompt asks for, found out from its rules: what scripted players go by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from fairtrial.agents.accounting import Estimate, text_of
from fairtrial.agents.context.folding import Folding, blocks_in, range_in
from fairtrial.agents.context.policy import ContextPolicy, Count
from fairtrial.agents.log import Block
from fairtrial.agents.planners.planner import Planner
from fairtrial.core import registry
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json, digest
from fairtrial.models.model import Message

Spec = Mapping[str, Any]
"""What a user would write for it: `id` and, where it is not the default, the dialect."""
T = TypeVar("T")
_DOCUMENT, _QUESTION = "Document:\n", "\n\nQuestion: "


@dataclass(frozen=True, slots=True)
class Voice:
    """The dialects of a run, and what may be called in it."""

    planner: Planner
    policy: ContextPolicy
    tools: Mapping[str, Mapping[str, Any]]
    """name -> JSON schema of the arguments."""


class Voices:
    """The dialects of runs, remembered; `planner` and `policy` go before what the rules say."""

    def __init__(self, count: Estimate, planner: Planner | None = None, policy: ContextPolicy | None = None) -> None:
        self._count, self._planner, self._policy = count, planner, policy
        self._known: dict[str, Voice] = {}

    def of(self, system: str, tools: Sequence[dict[str, Any]]) -> Voice:
        """The dialects that the system message asks for. Raises UserError where none fits."""
        key = digest(canonical_json([system, list(tools)]))
        if key not in self._known:
            schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
            planner = self._planner or _known(spoken(planners(), lambda each: each.rules(tools), system))
            policy = self._policy or _known(spoken(policies(self._count), lambda each: each.rules, system))
            self._known[key] = Voice(planner, policy, schemas)
        return self._known[key]


def offered(system: str, given: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The tools: those of the request, or the lines of JSON in the system message."""
    if given:
        return given
    found: list[dict[str, Any]] = []
    for line in system.splitlines():
        if not line.startswith('{"name": '):
            continue
        try:
            found.append({"type": "function", "function": json.loads(line)})
        except ValueError:
            continue
    return found


def to_read(asked: str) -> tuple[str, str] | None:
    """(question, document) where a reader is asked (`agents.reader`); None for anything else."""
    if not asked.startswith(_DOCUMENT) or _QUESTION not in asked:
        return None
    document, _, question = asked.removeprefix(_DOCUMENT).rpartition(_QUESTION)
    return question, document


@dataclass(frozen=True, slots=True)
class ToFold:
    """What a prompt under a folding policy shows, and what is to be folded of it."""

    at: int
    """Index of the message with the question and the blocks."""
    blocks: Sequence[Block]
    latest: int
    """The last step, which has no block yet."""
    imposed: int | None
    """Where the range begins that the prompt states; None: the model chooses."""
    whole: bool
    """Whether there is one block only, which every fold writes anew."""


def to_fold(policy: ContextPolicy, messages: Sequence[Message]) -> ToFold | None:
    """What a turn folds; None where its policy folds nothing, or nothing was done yet."""
    at = next(index for index, message in enumerate(messages) if message.role == "user")
    blocks, latest = blocks_in(messages[at].content)
    if not isinstance(policy, Folding) or latest is None:
        return None
    imposed = range_in("\n".join(text_of(message) for message in messages[at:]))
    return ToFold(at, blocks, latest, None if imposed is None else imposed[0], policy.tag == "memory")


def planners() -> Iterator[tuple[Spec, Planner]]:
    """Every registered planner, in each of its dialects."""
    for name in registry.names("planners"):
        kind = registry.load("planners", name)
        yield from (({"id": name, **chosen}, kind(settings)) for chosen, settings in _variants(kind.settings_type))


def policies(count: Count) -> Iterator[tuple[Spec, ContextPolicy]]:
    """Every registered policy that needs no settings, in each of its dialects."""
    for name in registry.names("policies"):
        kind = registry.load("policies", name)
        variants = _variants(kind.settings_type)
        yield from (({"id": name, **chosen}, kind(settings, count)) for chosen, settings in variants)


def spoken(candidates: Iterable[tuple[Spec, T]], rules: Callable[[T], str], system: str) -> tuple[Spec, T] | None:
    """The candidate whose rules the system message holds, of several the one with the longest; None: there is none."""
    fitting = [(told, each) for each in candidates if (told := rules(each[1]).strip()) in system]
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else None


def _known(found: tuple[Spec, T] | None) -> T:
    if found is None:
        raise UserError(
            "scripted player: the planner's rules are not known to it; name planner and policy in its settings"
        )
    return found[1]


def _variants(kind: type[Config]) -> Iterator[tuple[dict[str, Any], Config]]:
    """The settings' defaults, and with each other choice of a dialect."""
    try:
        yield {}, kind()
    except ValidationError:
        return
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal:
            for choice in get_args(field.annotation):
                if choice != field.default:
                    yield {name: choice}, kind(**{name: choice})
