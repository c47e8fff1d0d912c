"""The three recipes of the embedded model driven by what ships, and by a model trained again from another seed.

usage: python benchmarks/tiny_again.py --folder runs/tiny-1 --runs runs/again [--save] [--card]

`python -m fairtrial.training.tiny runs/tiny-1 --seed 1` makes the folder. Arms are compared with themselves, paired by
task; comparisons and claims of each recipe stand side by side with their verdicts. Runs that are there already are
continued. Saved as "tiny-again"; --card writes it into the card of what ships, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import FAIRTRIAL, machine, save
from scipy.stats import chi2, chi2_contingency, fisher_exact

from fairtrial.models.embedded.kind import WEIGHTS
from fairtrial.stats.multiplicity import holm
from fairtrial.studies.report import wording
from fairtrial.training.tiny import card

RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the second training")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the six run directories")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--card", action="store_true")
    options = parser.parse_args()
    text = beside(options.folder.resolve(), options.runs)
    print(text)
    if options.save:
        saved = save("tiny-again", f"{text}\n\n{machine()}")
        print(f"saved: {saved}")
    if options.card:
        path = WEIGHTS / card.FILE
        path.write_text(card.with_again(path.read_text("utf-8"), text), "utf-8")


def beside(folder: Path, runs: Path) -> str:
    """Own runs, arms, comparisons and claims of both; p is adjusted over all habits, and over all arms."""
    both = {name: _both(name, folder, runs) for name in ("fold", "graph", "skills")}
    changes = [effect for *_, effects in both.values() for effect in effects]
    for effect, p in zip(changes, holm([effect["p"] for effect in changes]), strict=True):
        effect["p_holm"] = p  # over the arms of all recipes, not of one comparison
    return "\n\n".join([_own_runs(folder), *(_recipe(name, *reports) for name, reports in both.items())])


def _own_runs(folder: Path) -> str:
    """What each habit got right of the runs that it played in training, which are more than a recipe has."""
    counts = {
        path.stem: [json.loads((where / path.name).read_text("utf-8")) for where in (WEIGHTS, folder)]
        for path in sorted(WEIGHTS.glob("*.json"))
        if path.with_suffix("").is_dir()
    }
    played = {name: both for name, both in counts.items() if both[0]["own_tried"]}
    tables = [[[one["own"], one["own_tried"] - one["own"]] for one in both] for both in played.values()]
    p = [float(fisher_exact(table)[1]) for table in tables]
    lines = [f"{'own runs right':<34}{'ships':>7}{'again':>7}{'of':>6}  p (Fisher)  p (Holm)"]
    lines += [
        f"{name:<34}{first['own']:>7}{second['own']:>7}{first['own_tried']:>6}  "
        f"{wording.p_value(raw):>10}  {wording.p_value(raised):>8}"
        for (name, (first, second)), raw, raised in zip(played.items(), p, holm(p), strict=True)
    ]
    mixed = [table for table in tables if all(sum(column) for column in zip(*table, strict=True))]
    together = sum(float(chi2_contingency(table, correction=False)[0]) for table in mixed)
    chance = float(chi2.sf(together, len(mixed)))
    return "\n".join([*lines, f"together: chi2 {together:.1f}, {len(mixed)} df, p = {wording.p_value(chance)}"])


def _both(name: str, folder: Path, runs: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], list[Any]]:
    """Reports of the recipe with what ships and with the folder's weights, and its arms against themselves."""
    recipe = RECIPES / f"{name}.toml"
    ships, again = runs / name, runs / f"{name}-again"
    _fairtrial("run", str(recipe), "--out", str(ships))
    changed = [f"{place}={json.dumps(value)}" for place, value in _tiny(tomllib.loads(recipe.read_text()), folder, "")]
    _fairtrial("run", str(recipe), "--out", str(again), *(part for each in changed for part in ("--set", each)))
    first, second = (json.loads(_fairtrial("report", str(run), "--json")) for run in (ships, again))
    return first, second, json.loads(_fairtrial("compare", str(again), str(ships), "--json"))["effects"]


def _recipe(name: str, first: Mapping[str, Any], second: Mapping[str, Any], changes: list[Any]) -> str:
    change = {effect["arm"].rsplit(":", 1)[1]: effect for effect in changes}
    lines = [
        f"{name}.toml, {first['tasks']} tasks",
        f"{'arm':<34}{'ships':>7}{'again':>7}  {'again - ships':<25}{'p':>8}  p (Holm)",
    ]
    for arm, other in zip(first["arms"], second["arms"], strict=True):
        effect = change[arm["name"]]
        lines.append(
            f"{arm['name']:<34}{arm['mean']:>7.3f}{other['mean']:>7.3f}  {_effect(effect):<25}"
            f"{wording.p_value(effect['p']):>8}  {wording.p_value(effect['p_holm']):>8}"
        )
    lines += ["", f"{'arm - control':<34}{'ships':<40}again"]
    lines += [
        f"{effect['arm'] + ' - ' + effect['control']:<34}{_effect(effect):<26}{effect['verdict']:<14}"
        f"{_effect(other):<26}{other['verdict']}"
        for effect, other in zip(first["effects"], second["effects"], strict=True)
    ]
    lines += ["", f"{'claim':<74}{'ships':<20}again"]
    lines += [
        f"{claim['text']:<74}{claim['verdict']:<20}{other['verdict']}"
        for claim, other in zip(first["claims"], second["claims"], strict=True)
    ]
    return "\n".join(lines)


def _tiny(node: Mapping[str, Any], folder: Path, place: str) -> Iterator[tuple[str, str]]:
    """(key, value) of every setting that makes a model `tiny` of a recipe come from the folder."""
    for key, value in node.items():
        here = f"{place}.{key}" if place else key
        if value == "tiny":
            yield f"{here}", f"tiny:{folder}"
        elif isinstance(value, Mapping) and value.get("kind") == "tiny":
            yield f"{here}.path", str(folder)
        elif isinstance(value, Mapping):
            yield from _tiny(value, folder, here)


def _effect(effect: Mapping[str, Any]) -> str:
    return f"{wording.signed(effect['estimate'])} {wording.interval(effect['ci'], sign=True)}"


def _fairtrial(*arguments: str) -> str:
    done = subprocess.run([FAIRTRIAL, *arguments], check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.strip() or done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
