"""The quality card of a data set: what is in it, what the gates find, what became of the source's text.

The first columns are those of Table 2 of the Agent Data Protocol paper (arXiv 2510.24702): rounds (actions a
trajectory), the shares of API calls, code and messages, and the share of calls with a thought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairtrial.formats.format import Ledgers, Notes, Row
from fairtrial.formats.gates.checks import check_row, responses
from fairtrial.formats.gates.coverage import Coverage, cover
from fairtrial.formats.gates.findings import GATES, Finding
from fairtrial.formats.gates.grounding import Page, page_of, ungrounded
from fairtrial.formats.gates.overlap import Evaluation, Overlap, compare
from fairtrial.formats.items import Item

_EXAMPLES = 3
_NAMES = 1000
_COVERED_ALL = 256
_COVERED_EACH = 16
_IDS = 1_000_000
_NOT_ALWAYS = frozenset({"grounded elements", "steps conserved", "text accounted"})
"""Gates that need something: a page, a source with turns, a source."""
_CALLS = frozenset({"api_action", "code_action"})


class Card:
    """Counts a data set's trajectories as they come; what it keeps does not grow with them (but for ids' hashes)."""

    def __init__(self, name: str = "", evaluations: Iterable[Evaluation] = ()) -> None:
        self.name = name
        self.trajectories = 0
        self.kinds: Counter[str] = Counter()
        """Items by class."""
        self.sources: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.thoughts = 0
        """Calls with a thought."""
        self.synthetic = 0
        self.characters = 0
        """Of what the agent wrote and saw."""
        self.agent_characters = 0
        self.synthetic_characters = 0
        self.errors = 0
        self.elements = 0
        """Elements named by actions whose page is there."""
        self.ungrounded = 0
        self.applied: Counter[str] = Counter()
        """Trajectories by gate, for gates that do not apply to each."""
        self.failed: Counter[str] = Counter()
        """Trajectories by gate that they fail."""
        self.findings: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, int | None, str]]] = {}
        self.flaws: Counter[str] = Counter()
        self.text = Ledgers()
        self.coverage = Coverage()
        self.covered = 0
        """Trajectories whose text was looked for in the source."""
        self.overlaps: dict[str, Overlap] = {}
        self.sites: Counter[str] = Counter()
        self._evaluations = tuple(evaluations)
        self._ids: set[int] = set()

    def add(self, row: Row, raw: Any = None, notes: Notes | None = None) -> list[Finding]:
        """Count a trajectory and return what the gates find in it. `raw` is what it was made from, where there is one.

        Text is accounted for in the first 256 trajectories and then in each sixteenth.
        """
        self.trajectories += 1
        found = check_row(row, raw=raw, notes=notes)
        if self._repeated(row["id"]) or (notes is not None and any(code == "duplicate id" for code, _ in notes.flaws)):
            found.append(Finding("unique ids", None, f"the id {row['id']!r} was there before"))
        if notes is not None:
            self.text.count(notes)
            for code, _ in notes.flaws:
                self.flaws[code] += 1
        if raw is not None and (self.trajectories <= _COVERED_ALL or self.trajectories % _COVERED_EACH == 0):
            part = cover(raw, row, notes)
            self.coverage.add(part)
            self.covered += 1
            self.applied["text accounted"] += 1
            if part.unaccounted > max(20, part.total // 1000):
                found.append(Finding("text accounted", None, f"{part.unaccounted} of {part.total} characters are lost"))
        elements = self.elements
        self._items(row.get("content", ()))
        self.applied["grounded elements"] += self.elements > elements
        self.applied["steps conserved"] += raw is not None and responses(raw) is not None
        compare(row, self._evaluations, self.overlaps, self.sites)
        for code in {finding.code for finding in found}:
            self.failed[code] += 1
        for finding in found:
            self.findings[finding.code] += 1
            examples = self.examples.setdefault(finding.code, [])
            if len(examples) < _EXAMPLES:
                examples.append((row["id"][:80], finding.item, finding.message[:200]))
        return found

    def _repeated(self, id: str) -> bool:
        key = hash(id)
        if key in self._ids:
            return True
        if len(self._ids) < _IDS:
            self._ids.add(key)
        return False

    def _items(self, content: Iterable[Item]) -> None:
        page: Page | None = None
        for item in content:
            kind = item["class_"]
            self.kinds[kind] += 1
            size = _size(item)
            self.characters += size
            if item.get("synthetic"):
                self.synthetic += 1
                self.synthetic_characters += size
            if kind.endswith("_action"):
                self.agent_characters += size
                if kind in _CALLS and (item.get("description") or "").strip():
                    self.thoughts += 1
                if kind == "api_action":
                    _count(self.tools, item["function"])
                    looked, lost = ungrounded(item.get("kwargs") or {}, page)
                    self.elements += looked
                    self.ungrounded += len(lost)
                elif kind == "code_action":
                    _count(self.languages, item["language"])
            else:
                if kind == "web_observation":
                    page = page_of(item)
                self.sources[item.get("source", "environment")] += 1
                self.errors += item.get("is_error") is True

    def to_json(self) -> dict[str, Any]:
        """The card as plain values."""
        actions = {kind: self.kinds[kind] for kind in ("api_action", "code_action", "message_action")}
        total, calls = sum(actions.values()), actions["api_action"] + actions["code_action"]
        gates = {
            gate: {
                "passes": rule,
                "failed": self.failed[gate],
                "checked": self._checked(gate),
                "pass_rate": _share(self._checked(gate) - self.failed[gate], self._checked(gate)),
                "findings": self.findings[gate],
                "examples": [
                    {"id": id, "item": index, "message": message} for id, index, message in self.examples.get(gate, [])
                ],
            }
            for gate, rule in GATES.items()
        }
        return {
            "name": self.name,
            "trajectories": self.trajectories,
            "table_2": {
                "rounds": round(total / self.trajectories, 2) if self.trajectories else None,
                "api_share": _share(actions["api_action"], total),
                "code_share": _share(actions["code_action"], total),
                "message_share": _share(actions["message_action"], total),
                "calls_with_thought": _share(self.thoughts, calls),
            },
            "items": dict(self.kinds),
            "observations_from": dict(self.sources),
            "observations_with_error": self.errors,
            "characters": {
                "all": self.characters,
                "agent": self.agent_characters,
                "synthetic": self.synthetic_characters,
            },
            "synthetic": {"items": self.synthetic, "share": _share(self.synthetic_characters, self.characters)},
            "elements": {
                "named": self.elements,
                "ungrounded": self.ungrounded,
                "grounded_share": _share(self.elements - self.ungrounded, self.elements),
            },
            "coverage": {
                "trajectories": self.covered,
                **asdict(self.coverage),
                "accounted_share": round(self.coverage.accounted_share, 6) if self.covered else None,
            },
            "ledgers": {
                "dropped": dict(self.text.dropped.most_common()),
                "rewritten": dict(self.text.rewritten.most_common()),
                "invented": dict(self.text.invented.most_common()),
            },
            "flaws": dict(self.flaws),
            "gates": gates,
            "tools": dict(self.tools.most_common()),
            "languages": dict(self.languages.most_common()),
            "sites": dict(self.sites.most_common(50)),
            "overlap": {name: asdict(overlap) for name, overlap in self.overlaps.items()},
        }

    def _checked(self, gate: str) -> int:
        """In how many trajectories there was something for the gate to look at."""
        return self.applied[gate] if gate in _NOT_ALWAYS else self.trajectories

    def to_html(self) -> str:
        """The card as one self-contained page without scripts; all text of the data is escaped."""
        return render(self.to_json())


def render(card: dict[str, Any]) -> str:
    """A card's values as a page."""
    import base64
    import hashlib

    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    css = (folder / "card.css").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: "-" if value is None else f"{100 * value:.1f} %"
    environment.filters["count"] = lambda value: "-" if value is None else f"{value:,}"
    style = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    return environment.get_template("card.html.j2").render(card=card, css=css, policy=policy)


def _count(counter: Counter[str], name: str) -> None:
    """Names beyond the first thousand are counted together."""
    counter[name if name in counter or len(counter) < _NAMES else "(others)"] += 1


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _size(item: Item) -> int:
    """Characters that the agent wrote or saw in an item."""
    size = len(item.get("content") or "") + len(item.get("description") or "") + len(item.get("reasoning") or "")
    kind = item["class_"]
    if kind == "api_action":
        size += sum(len(value) if isinstance(value, str) else 1 for value in (item.get("kwargs") or {}).values())
    elif kind == "web_observation":
        size += len(item.get("axtree") or item.get("html") or "")
    elif kind == "image_observation":
        size = 0
    return size
