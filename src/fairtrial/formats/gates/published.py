"""What is broken in data as it was published: the gates run over training records instead of trajectories.

Reads the three forms of the Agent Data Protocol's published samples (ShareGPT records of OpenHands v0.30, SWE-agent and
AgentLab). Calls are text there, so each check reads them as the harness would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.call_syntax import parse_python_calls, parse_xml_calls
from fairtrial.formats.format import Notes, decode
from fairtrial.formats.gates.checks import CALLS, MARKUP, check_row
from fairtrial.formats.gates.grounding import Page, ungrounded
from fairtrial.formats.gates.shell import verdict

_AGENT = frozenset({"gpt", "assistant", "function_call"})
_TREE = "BEGIN accessibility tree"
_PYTHON = "python -c $'"


class Share(NamedTuple):
    """So many of so many."""

    broken: int
    of: int


def turns(record: Any) -> Iterator[tuple[bool, str]]:
    """Whether the agent speaks, and the text, for each turn of a record."""
    for turn in record["conversations"]:
        yield (turn.get("from") or turn["role"]) in _AGENT, turn.get("value") or turn.get("content") or ""


def ungrounded_elements(records: Iterable[Any]) -> Share:
    """Elements named in browser calls that are not in the page shown before."""
    broken = of = 0
    for record in records:
        page: Page | None = None
        for agent, text in turns(record):
            if not agent:
                if _TREE in text:
                    page = Page(axtree=text[text.rindex(_TREE) :])
                continue
            for kwargs in _browser_calls(text):
                looked, lost = ungrounded(kwargs, page)
                of += looked
                broken += len(lost)
    return Share(broken, of)


def _browser_calls(text: str) -> Iterator[dict[str, Any]]:
    for call in parse_xml_calls(text):
        if call.name == "browser":
            try:
                yield from (kwargs for _, _, kwargs in parse_python_calls(call.parameters.get("code", "")))
            except ValueError:
                continue


def python_commands(records: Iterable[Any]) -> Counter[str]:
    """Verdicts on the commands that should run Python; the published form puts the code between quotes as it is."""
    verdicts: Counter[str] = Counter()
    for record in records:
        for agent, text in turns(record):
            for call in parse_xml_calls(text) if agent else ():
                command = call.parameters.get("command", "")
                if call.name == "bash" and command.startswith(_PYTHON) and command.endswith("'"):
                    verdicts[verdict(command, command[len(_PYTHON) : -1])] += 1
    return verdicts


def leaked_thoughts(records: Iterable[Any]) -> Share:
    """Turns of an AgentLab form whose thought holds call syntax."""
    broken = of = 0
    for record in records:
        for agent, text in turns(record):
            if agent:
                of += 1
                thought = orjson.loads(text).get("thought") or ""
                broken += any(mark in thought for mark in MARKUP)
    return Share(broken, of)


def mislabelled(trajectories: Iterable[Any]) -> Share:
    """Text directly after a call that is labelled as the user's, of all such text (standardised form)."""
    after = [
        item
        for value in trajectories
        for before, item in pairwise(_row(value)["content"])
        if item["class_"] == "text_observation" and before["class_"] in CALLS
    ]
    return Share(sum(item["source"] == "user" for item in after), len(after))


def failing(trajectories: Iterable[Any], gate: str) -> Share:
    """Trajectories of the standardised form that fail a gate."""
    results = [any(finding.code == gate for finding in check_row(_row(value))) for value in trajectories]
    return Share(sum(results), len(results))


def _row(value: Any) -> dict[str, Any]:
    row = decode(ADP_V1, value, Notes())
    if not isinstance(row, dict):
        raise TypeError("the standardised form leaves nothing out")
    return row
