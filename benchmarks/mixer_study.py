"""What a mixer's state can do without training (probes), and a reduced run of recipes/kda.toml, as tables.

usage: python benchmarks/mixer_study.py [--save] [--probes-only] [--repeats 1] [--tasks mqar-8,...] [--arms kda,...]

The probes are exact to rounding and take seconds. The study trains every arm on the tasks named (those of the recipe's
quick form unless given) and prints the mean test accuracy over the repeats; CPU seconds beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from machine import machine, save

from fairtrial.studies.study import bind, load_study
from fairtrial.training.measuring import measure
from fairtrial.training.mixer_probes import (
    DELTA,
    HEBBIAN,
    LETTERS,
    SOFTMAX,
    overwrite,
    retain_and_forget,
    retrieval,
    stream,
)
from fairtrial.training.trial import model_config
from fairtrial.training.trial_settings import ProbeTask

RECIPE = Path(__file__).parent.parent / "recipes" / "kda.toml"
QUICK = ("mqar-8",)


def probe_lines() -> list[str]:
    """Overwrite, retain-and-forget, one decay for two channels, and retrieval against stored pairs."""
    lines = ["Probes without training: squared error, 0 is right", ""]
    lines.append(f"{'mixer':<36}{'overwrite':>11}{'keep + lose':>13}")
    for mixer in (LETTERS["K"], LETTERS["G"], LETTERS["N"], DELTA, HEBBIAN, SOFTMAX):
        lines.append(f"{mixer.title:<36}{overwrite(mixer):>11.3f}{retain_and_forget(mixer):>13.3f}")
    lines += ["", "hold one value and follow another, Hebbian writes: error under the best gate"]
    lines.append(f"{'length':<10}{'channel gate':>14}{'scalar gate':>14}{'no gate':>10}")
    for length in (16, 64, 256):
        kinds = (stream("channel", length=length), stream("scalar", length=length), stream("none", length=length))
        lines.append(f"{length:<10}{kinds[0]:>14.3f}{kinds[1]:>14.3f}{kinds[2]:>10.2f}")
    lines += ["", "retrieval error against stored pairs, random keys of width 32"]
    lines.append(f"{'pairs':<10}{'Hebbian':>10}{'delta':>10}{'delta, decay 0.97':>20}{'(pairs-1)/32':>15}")
    for pairs in (4, 8, 16, 32, 64):
        kinds = (retrieval(HEBBIAN, pairs), retrieval(DELTA, pairs), retrieval(DELTA, pairs, decay=0.97))
        lines.append(f"{pairs:<10}{kinds[0]:>10.3f}{kinds[1]:>10.3f}{kinds[2]:>20.3f}{(pairs - 1) / 32:>15.3f}")
    return lines


def study_lines(tasks: list[str], arms: list[str], repeats: int, overrides: tuple[str, ...]) -> list[str]:
    """Mean peak accuracy on the test split of each arm and task, trained here and now."""
    study, _ = load_study(RECIPE, overrides)
    bound = bind(study, RECIPE.parent)
    names = arms or list(bound.arms)
    width = max(len(name) for name in names) + 2
    lines = [f"Reduced study of {RECIPE.name}, {repeats} repeat(s): peak accuracy on the test split", ""]
    lines.append(f"{'arm':<{width}}" + "".join(f"{task:>16}" for task in tasks) + f"{'parameters':>12}{'CPU s':>8}")
    with tempfile.TemporaryDirectory() as cache:
        for name in names:
            row, parameters, started = "", 0, time.process_time()
            for task_name in tasks:
                cell, arm = bound.suite.cells[task_name], bound.arms[name]
                task = cell.task
                assert not isinstance(task, ProbeTask), f"{task_name} is a probe: it is in the table above"
                config = model_config(bound.suite, arm, cell)
                scores = [_score(bound.suite, arm, task, config, seed, Path(cache)) for seed in range(repeats)]
                row += f"{sum(scores) / len(scores):>16.3f}"
                parameters = config.parameters()
            lines.append(f"{name:<{width}}{row}{parameters:>12,}{time.process_time() - started:>8.0f}")
    return lines


def _score(suite, arm, task, config, seed: int, cache: Path) -> float:
    run = measure(suite, arm, task, config, seed, cache)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value.scores["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--probes-only", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tasks", default=",".join(QUICK))
    parser.add_argument("--arms", default="")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, as for fairtrial run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["What sequence mixers can store, overwrite and forget", machine(), "", *probe_lines()]
    if not options.probes_only:
        arms = [name for name in options.arms.split(",") if name]
        lines += ["", *study_lines(options.tasks.split(","), arms, options.repeats, tuple(options.set))]
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"\nsaved: {save('mixer-study', text)}")


if __name__ == "__main__":
    main()
