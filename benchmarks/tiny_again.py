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
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import machine, save

from fairtrial.models.embedded.kind import WEIGHTS
from fairtrial.studies.report import wording
from fairtrial.training.tiny import card

FAIRTRIAL = str(Path(sys.executable).parent / "fairtrial")
RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the second training")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the six run directories")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--card", action="store_true")
    options = parser.parse_args()
    text = "\n\n".join(_beside(name, options.folder.resolve(), options.runs) for name in ("fold", "graph", "skills"))
    print(text)
    if options.save:
        saved = save("tiny-again", f"{text}\n\n{machine()}")
        print(f"saved: {saved}")
    if options.card:
        path = WEIGHTS / card.FILE
        path.write_text(card.with_again(path.read_text("utf-8"), text), "utf-8")


def _beside(name: str, folder: Path, runs: Path) -> str:
    recipe = RECIPES / f"{name}.toml"
    ships, again = runs / name, runs / f"{name}-again"
    _fairtrial("run", str(recipe), "--out", str(ships))
    changed = [f"{place}={json.dumps(value)}" for place, value in _tiny(tomllib.loads(recipe.read_text()), folder, "")]
    _fairtrial("run", str(recipe), "--out", str(again), *(part for each in changed for part in ("--set", each)))
    first, second = (json.loads(_fairtrial("report", str(run), "--json")) for run in (ships, again))
    pairs = json.loads(_fairtrial("compare", str(again), str(ships), "--json"))["effects"]
    change = {effect["arm"].rsplit(":", 1)[1]: effect for effect in pairs}
    lines = [f"{name}.toml, {first['tasks']} tasks", f"{'arm':<34}{'ships':>7}{'again':>7}  again - ships"]
    lines += [
        f"{arm['name']:<34}{arm['mean']:>7.3f}{other['mean']:>7.3f}  {_effect(change[arm['name']])}"
        for arm, other in zip(first["arms"], second["arms"], strict=True)
    ]
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
