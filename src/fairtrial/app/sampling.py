"""The verb samples: training data from the runs of agents, and why what is not in it was left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.agents.samples.writing import Summary


def samples(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory, or trajectories in any format.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .jsonl, or .jsonl.zst.")],
    arm: Annotated[str | None, typer.Option(help="Of a run directory: only this arm.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE]", help="Show runs under append, last-n or clear-results; default: as played."
        ),
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME|KEY=VALUE", help="fold-generator, gap, right; or one setting, e.g. min_score=1."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="KIND=VALUE", help="Loss weight of a kind, e.g. think=0; default 1."),
    ] = None,
    readers: Annotated[bool, typer.Option("--readers", help="Samples of reader calls too.")] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(help='Of the model that gave the ids: a folder with tokenizer.json; "bytes": scripted models.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Make training samples: one for each run that only appends, one for each step where the context is rewritten."""
    from fairtrial.agents.samples.filters import read_filters
    from fairtrial.agents.samples.sample import Weights
    from fairtrial.agents.samples.tokens import open_bytes
    from fairtrial.agents.samples.writing import Options, write_samples
    from fairtrial.core.config import parse

    options = Options(
        arm=arm,
        policy=None if policy is None else _policy(policy),
        filters=read_filters(filter_ or ()),
        weights=parse(Weights, dict(_pair(text, "weight") for text in weight or ()), where="weight"),
        readers=readers,
        bytes_of=None if tokenizer is None else open_bytes(tokenizer),
        some=True,
    )
    summary = write_samples(source, out, options)
    if as_json:
        sys.stdout.write(json.dumps({"out": str(out), **summary.to_json()}) + "\n")
    else:
        _say(out, summary)


def _policy(text: str) -> dict[str, Any]:
    name, *settings = text.split(",")
    return {"id": name, **{key: _value(value) for key, value in (_pair(each, "policy") for each in settings)}}


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f'{what} "{text}": write NAME=VALUE')
    return name.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _say(out: Path, summary: Summary) -> None:
    lines = [
        f"{out}: {summary.samples:,} samples ({summary.with_ids:,} with token ids, about {summary.tokens:,} tokens)"
        f" from {summary.kept_runs:,} of {summary.runs:,} runs",
        f"learned: {summary.learned_turns:,} turns; characters by kind: "
        + (", ".join(f"{kind} {count:,}" for kind, count in sorted(summary.learned_characters.items())) or "none"),
        f"runs with parallel plans: {summary.parallel_runs:,} of {summary.kept_runs:,}; "
        f"plans with hindsight: {summary.hindsight:,} of {summary.plans:,}",
    ]
    for what, counts in (
        ("run", summary.dropped_runs), ("turn", summary.dropped_turns), ("sample", summary.dropped_samples)
    ):  # fmt: skip
        lines += [f"dropped: {count:,} x {what}: {reason}" for reason, count in counts.most_common()]
    sys.stdout.write("\n".join(lines) + "\n")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(samples)
