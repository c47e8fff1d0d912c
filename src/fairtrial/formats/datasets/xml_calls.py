"""Assistant turns whose calls are `<function=NAME>` blocks in the text, as OpenHands and SWE-agent write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fairtrial.formats.call_syntax import XmlCall, coerce, parse_xml_calls
from fairtrial.formats.datasets.recipe import Draft
from fairtrial.formats.datasets.signatures import Tool
from fairtrial.formats.datasets.swe_gym import add_call


@dataclass(frozen=True, slots=True)
class XmlTurn:
    """Adds the items of one assistant turn; values get the type that the tool declares."""

    tools: Mapping[str, Tool]
    published: Callable[[str], Any] = str
    """What the published form makes of a value's text, from which it takes the space around (and so indentation)."""

    def __call__(self, text: str, draft: Draft) -> None:
        """Add text and calls in their order; text after the last call is a message of the same response."""
        calls = [call for call in parse_xml_calls(text) if not draft.faithful or _closed(text, call)]
        if not calls:
            if "<function=" in text:
                draft.notes.flaw("malformed call", f"a call that is not well formed stays text: {text[-80:]!r}")
            draft.said(text)
            return
        for call in calls:
            draft.syntax(text[call.span[0] : call.span[1]])
            given = {name: self._value(call.name, name, value, draft) for name, value in call.parameters.items()}
            add_call(call.name, {"kwargs": given}, call.before.strip() or None, draft, {})
        rest = text[calls[-1].span[1] :].strip()
        if draft.faithful:
            draft.lost(rest)
        elif rest:
            draft.said(rest)

    def _value(self, function: str, parameter: str, text: str, draft: Draft) -> Any:
        if draft.faithful:
            return self.published(text.strip())
        tool = self.tools.get(function)
        return coerce(text, tool["function"]["parameters"]["properties"].get(parameter) if tool else None)


def _closed(text: str, call: XmlCall) -> bool:
    # the published form knows no call that was cut off
    return text.startswith("</function>", call.span[1] - len("</function>"))
