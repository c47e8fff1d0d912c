"""Weighted mixtures of data sets as files ready for training (Agent Data Protocol, arXiv 2510.24702, section 4, B.1).

From each data set d with n_d usable trajectories an epoch takes m_d = ceil(w_d n_d): all of them for w_d = 1, drawn
without replacement for w_d < 1 and with replacement for w_d > 1, from a fixed seed; the union's records are shuffled.
A harness gets only the data sets that are meant for it: the browsing ones for AgentLab, the others for OpenHands and
SWE-agent. Usable is what the data set's own rules keep and the harness can hold; the manifest counts the rest.

Records wait in a file beside the result; in memory there are only their places (8 bytes each, 16 more for each
trajectory). A data set with a weight below one is read twice: once to count, once to write what was drawn.
"""

from __future__ import annotations

import glob
import math
import tempfile
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Literal

import orjson
from pydantic import Field, field_validator, model_validator

from fairtrial.core.config import Config, parse, read_toml
from fairtrial.core.errors import UserError, one_line
from fairtrial.core.ids import digest, file_digest, seed
from fairtrial.formats.format import Format, Notes, Row, RowError, named
from fairtrial.formats.reading import HUB, Options, one_line_of, read
from fairtrial.formats.sft.agentlab import agentlab
from fairtrial.formats.sft.openhands import openhands
from fairtrial.formats.sft.steps import Settings
from fairtrial.formats.sft.swe_agent import swe_agent
from fairtrial.formats.source import readable_name
from fairtrial.store import whole_folder

_HARNESSES: Mapping[str, Callable[[Settings], Format]] = {
    "sft-openhands": openhands,
    "sft-swe-agent": swe_agent,
    "sft-agentlab": agentlab,
}
_MEANT_FOR: Mapping[str, Literal["web", "other"]] = {
    "sft-openhands": "other",
    "sft-swe-agent": "other",
    "sft-agentlab": "web",
}
Tell = Callable[[str], None]


class Harness(Config):
    """One form that the mixture is written in."""

    format: str
    """A format that can be written: sft-openhands, sft-swe-agent, sft-agentlab, trl, openai-chat ..."""
    takes: Literal["web", "other", "all"] | None = None
    """Which data sets it gets. By default: AgentLab the web ones, OpenHands and SWE-agent the others, the rest all."""
    system: str | None = None
    """File with the harness's own system prompt, relative to the recipe."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"format": value} if isinstance(value, str) else value


class Source(Config):
    """One data set of the mixture."""

    name: str
    files: tuple[str, ...] = ()
    """Patterns relative to the data folder (`*` and `**`), absolute paths, or hf:OWNER/NAME[@CONFIG][:SPLIT]. By
    default the data files of the folder that is named like the data set."""
    format: str | None = None
    """The format of the files: the data set's recipe, fairtrial, ... By default the one named like the data set."""
    weight: float = Field(default=1, gt=0)
    """w_d, as written in decimals."""
    web: bool = False
    """Whether its agents act in a browser."""
    optional: bool = False
    """Whether the mixture may be built without it."""
    environment: str | None = None
    """See `Settings.environment`: where the OpenHands form calls the data set's functions."""
    prefixes: bool | None = None
    """See `Settings.prefixes`: whether the OpenHands form has one record for each action."""

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Recipe(Config):
    """A mixture as its file describes it."""

    name: str
    kind: Literal["mixture"] = "mixture"
    title: str = ""
    seed: int
    epochs: int = Field(default=1, ge=1)
    data: str = "data"
    """Folder of the data sets, relative to the recipe."""
    endings: bool = False
    """Keep the synthetic closing exchanges that the paper trains on."""
    harnesses: tuple[Harness, ...] = Field(min_length=1)
    datasets: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Recipe:
        for what, given in (
            ("dataset", [item.name for item in self.datasets]),
            ("harness", [item.format for item in self.harnesses]),
        ):
            twice = [name for name, count in Counter(given).items() if count > 1]
            if twice:
                raise ValueError(f"{what} {twice[0]} is there twice")
        return self


@dataclass(slots=True)
class _Draw:
    """One data set for one harness: what was found, and where its written trajectories wait."""

    source: Source
    found: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    problems: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    usable: int = 0
    taken: list[array[int]] = field(default_factory=list)
    """For each epoch the drawn trajectories, counted from 0 among the usable ones."""
    waiting: array[int] = field(default_factory=lambda: array("q"))
    """The trajectories whose records wait, ascending."""
    firsts: array[int] = field(default_factory=lambda: array("q", [0]))
    """For each of them its first entry in `places`; one more at the end."""
    places: array[int] = field(default_factory=lambda: array("q"))
    """Where each waiting record begins."""

    def records(self, trajectory: int) -> array[int]:
        """Where the records of a drawn trajectory begin."""
        order = bisect_left(self.waiting, trajectory)
        return self.places[self.firsts[order] : self.firsts[order + 1]]


def asked(weight: float, usable: int) -> int:
    """m_d = ceil(w_d n_d); the weight counts as the decimal that was written (0.1 is a tenth)."""
    return math.ceil(Decimal(repr(weight)) * usable)


def draw(source: str, weight: float, usable: int, recipe_seed: int, epoch: int) -> array[int]:
    """Indices of the trajectories that an epoch takes from a data set of `usable` ones."""
    random = Random(seed(recipe_seed, source, epoch, "sampling"))  # noqa: S311
    count = asked(weight, usable)
    if weight == 1:
        return array("q", range(usable))
    if weight < 1:
        return array("q", random.sample(range(usable), count))
    return array("q", random.choices(range(usable), k=count) if usable else ())


def load(path: Path) -> Recipe:
    """A recipe file. Raises UserError where it is none."""
    return parse(Recipe, read_toml(path), where=str(path))


def build(recipe: Path, out: Path, *, data: Path | None = None, tell: Tell = lambda line: None) -> dict[str, Any]:
    """Build the mixture of a recipe file in a new folder `out`; returns the manifest that lies there too.

    `data` replaces the recipe's data folder. The folder appears when everything is in it. Raises UserError for a data
    set that is not there (unless optional) or holds nothing usable, and where `out` exists already.
    """
    plan = load(recipe)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; name a new folder")
    base = data if data is not None else recipe.parent / plan.data
    files = {source.name: _files(source, base) for source in plan.datasets}
    absent = [source.name for source in plan.datasets if not files[source.name]]
    missing = [source.name for source in plan.datasets if source.name in absent and not source.optional]
    if missing:
        raise UserError(
            f"no files of {', '.join(missing)} in {base}; put them there, name another folder with --data, or set "
            "optional = true"
        )
    with whole_folder(out) as folder:
        manifest: dict[str, Any] = {
            "recipe": plan.model_dump(mode="json"),
            "recipe_digest": digest(plan.model_dump(mode="json")),
            "absent": absent,
            "harnesses": {},
        }
        beside: dict[str, dict[str, Any]] = {}
        for harness in plan.harnesses:
            tell(f"{harness.format} ...")
            manifest["harnesses"][harness.format] = _one_harness(plan, harness, recipe.parent, files, folder, beside)
        for name, content in (*beside.items(), ("manifest.json", manifest)):
            (folder / name).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    return manifest


def _files(source: Source, base: Path) -> list[str]:
    found: list[str] = []
    for pattern in source.files or (f"{source.name}/*",):
        if pattern.startswith(HUB):
            found.append(pattern)
            continue
        matching = sorted(glob.glob(str(base / pattern), recursive=True))  # noqa: PTH207 (patterns may be absolute)
        found += [name for name in matching if not pattern.endswith("*") or readable_name(name)]
    return found


def _one_harness(
    plan: Recipe,
    harness: Harness,
    home: Path,
    files: Mapping[str, Sequence[str]],
    folder: Path,
    beside: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Write one harness's files; returns its part of the manifest."""
    takes = harness.takes or _MEANT_FOR.get(harness.format, "all")
    sources = [item for item in plan.datasets if takes == "all" or item.web == (takes == "web")]
    prompt = _prompt(home / harness.system) if harness.system else None
    draws = [_Draw(source) for source in sources if files[source.name]]
    if not draws:
        raise UserError(f"{harness.format}: the recipe has no data set for it")
    written: list[dict[str, Any]] = []
    with tempfile.TemporaryFile(dir=folder) as spool:
        for item in draws:
            _gather(item, plan, _form(harness, item.source, prompt), files[item.source.name], spool)
        for epoch in range(plan.epochs):
            name = f"{harness.format}.jsonl" if plan.epochs == 1 else f"{harness.format}.epoch-{epoch + 1}.jsonl"
            records = _shuffled(draws, plan.seed, epoch)
            with (folder / name).open("wb") as file:
                for place in records:
                    spool.seek(place)
                    file.write(spool.readline())
            written.append({"file": name, "records": len(records), "sha256": file_digest(folder / name)})
            form = _form(harness, draws[0].source, prompt)
            for other, content in (form.beside(name) if form.beside else {}).items():
                beside.setdefault(other, {}).update(orjson.loads(content))
    accounts = {item.source.name: _account(item, files[item.source.name]) for item in draws}
    return {"takes": takes, "files": written, "datasets": accounts}


def _prompt(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the system prompt cannot be read: {one_line(error)}") from None


def _form(harness: Harness, source: Source, prompt: str | None) -> Format:
    settings = Settings(
        system=prompt,
        web=True if source.web else None,
        environment=source.environment,
        prefixes=source.prefixes,
    )
    form = _HARNESSES[harness.format](settings) if harness.format in _HARNESSES else named(harness.format)
    if form.encode is None:
        raise UserError(f"{harness.format} can be read only")
    return form


def _gather(item: _Draw, plan: Recipe, form: Format, files: Sequence[str], spool: BinaryIO) -> None:
    """Count a data set's usable trajectories, draw, and write the drawn ones' records into the spool."""
    source = item.source
    if source.weight < 1:
        for _ in _usable(item, plan, form, files):
            item.usable += 1
        item.taken = [draw(source.name, source.weight, item.usable, plan.seed, epoch) for epoch in range(plan.epochs)]
        wanted = set().union(*item.taken)
        again = _Draw(source)
        for index, values in enumerate(_usable(again, plan, form, files)):
            if index in wanted:
                _wait(item, index, values, spool)
    else:
        for index, values in enumerate(_usable(item, plan, form, files)):
            item.usable += 1
            _wait(item, index, values, spool)
        item.taken = [draw(source.name, source.weight, item.usable, plan.seed, epoch) for epoch in range(plan.epochs)]
    if not item.found:
        reason = next(iter(item.problems or item.skipped), "the files are empty")
        raise UserError(f"{source.name}: holds no trajectory that could be used: {reason}")


def _wait(item: _Draw, index: int, values: list[Any], spool: BinaryIO) -> None:
    item.waiting.append(index)
    for value in values:
        item.places.append(spool.tell())
        spool.write(orjson.dumps(value) + b"\n")
    item.firsts.append(len(item.places))


def _usable(item: _Draw, plan: Recipe, form: Format, files: Sequence[str]) -> Iterator[list[Any]]:
    """The records of each trajectory that the data set keeps and the harness can hold."""
    assert form.encode is not None
    reader = item.source.format or item.source.name
    tools = [dict(tool) for tool in named(reader).tools]
    for file in files:
        for reading in read(file, Options(format=reader, endings=plan.endings)):
            if reading.skipped is not None:
                item.skipped[reading.skipped] += 1
            elif reading.row is None:
                item.problems[reading.problem or ""] += 1
            else:
                item.found += 1
                row = reading.row if reading.row.get("tools") or not tools else {**reading.row, "tools": tools}
                try:
                    values = list(form.encode(row, Notes(endings=plan.endings)))
                except RowError as error:
                    item.refused[one_line_of(error)] += 1
                else:
                    yield [_named_after(value, item.source, row) for value in values]


def _named_after(value: Any, source: Source, row: Row) -> Any:
    """The record with the data set in its id: ids are unique within a data set only."""
    return {**value, "id": f"{source.name}/{value['id']}"} if isinstance(value, dict) and "id" in value else value


def _shuffled(draws: Sequence[_Draw], recipe_seed: int, epoch: int) -> array[int]:
    """Where the records of an epoch begin, in their order."""
    records = array("q")
    for item in draws:
        for trajectory in item.taken[epoch]:
            records.extend(item.records(trajectory))
    Random(seed(recipe_seed, "mixture", epoch, "order")).shuffle(records)  # noqa: S311
    return records


def _account(item: _Draw, files: Sequence[str]) -> dict[str, Any]:
    """Counts of one data set: what was found, left out and why, asked for and taken."""
    return {
        "files": [Path(file).name for file in files],
        "weight": item.source.weight,
        "trajectories": item.found,
        "left_out": dict(item.skipped),
        "problems": dict(item.problems),
        "refused": dict(item.refused),
        "usable": item.usable,
        "asked": asked(item.source.weight, item.usable),
        "taken": [len(indices) for indices in item.taken],
        "records": [sum(len(item.records(index)) for index in indices) for indices in item.taken],
    }
