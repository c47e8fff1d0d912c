"""Are the statistics right? Published figures recomputed, coverage and false alarms on planted studies, speed.

    python benchmarks/paired_statistics.py [--studies 1000] [--save]

Peers: intervals on pooled trials and unpaired tests (what published tables and harnesses use), scipy's bootstrap and
permutation test for speed. The file is not called statistics.py, which would hide the standard library's module.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine, save

from fairtrial.stats.arms import summarise_arm
from fairtrial.stats.gain import gains
from fairtrial.stats.intervals import NORMAL, t_interval, t_quantile
from fairtrial.stats.metrics import improvement, norm_perf, run_scores
from fairtrial.stats.paired import BOOTSTRAP_FROM, paired_effect
from fairtrial.stats.planted import Planted, as_scores, truth
from fairtrial.stats.resampling import bca_of, collapse, mean_of_first, resample
from fairtrial.stats.verdict import decide

PUBLISHED = Path(__file__).parent / "published"
RESAMPLES = 2_000
"""In the simulated studies, to keep 20,000 of them under two minutes; the library's default is 10,000."""


def golden() -> list[str]:
    """Every published figure that can be recomputed, ours beside it."""
    bench = json.loads((PUBLISHED / "skillsbench.json").read_text())
    gym = json.loads((PUBLISHED / "researchgym.json").read_text())
    v4, v1, own = bench["v4_configurations"], bench["v1_configurations"], bench["v1_self_generated"]
    effect = paired_effect(numbered(v4["none"]), numbered(v4["curated"]), rng=0)
    gain = gains([x / 100 for x in v4["none"]], [x / 100 for x in v4["curated"]])
    domains = bench["v4_domains"]
    weighted = [np.average(domains[arm], weights=domains["tasks"]) for arm in ("none", "curated")]
    first = paired_effect(named(v1["names"], v1["none"]), named(v1["names"], v1["curated"]), rng=0)
    made = paired_effect(named(v1["names"], v1["none"]), named(own["names"], own["self"]), rng=0)
    tim = gym["tim"]
    change = improvement(tim["best"], tim["baseline"])
    rows = [
        ("v4 mean without skills", 33.92, effect.control_mean, 2),
        ("v4 mean with curated skills", 50.53, effect.arm_mean, 2),
        ("v4 difference, points", 16.61, effect.estimate, 2),
        ("v4 macro mean of gains, %", 25.56, 100 * (gain.macro or 0), 2),
        ("v4 gain of the means, %", 25.14, 100 * (gain.of_means or 0), 2),
        ("v4 domain-weighted without", 33.93, weighted[0], 2),
        ("v4 domain-weighted with", 50.50, weighted[1], 2),
        ("v1 mean without skills", 24.34, first.control_mean, 2),
        ("v1 mean with curated skills", 40.56, first.arm_mean, 2),
        ("v1 difference, points", 16.21, first.estimate, 2),
        ("v1 self-generated, mean of 5", 20.96, made.arm_mean, 2),
        ("v1 control, the same 5", 22.30, made.control_mean, 2),
        ("v1 self-generated - control", -1.34, made.estimate, 2),
        ("ResearchGym mean NormPerf", 0.394, float(np.mean(list(gym["norm_perf_mean"].values()))), 3),
        ("ResearchGym mean best@3", 0.763, float(np.mean(list(gym["norm_perf_best"].values()))), 3),
        ("MDT, 1 result of 3 runs", 0.165, run_scores(gym["mdt_runs_with_a_result"], planned=3).mean, 3),
        ("TIM NormPerf of the best run", 1.072, norm_perf([tim["best"]], tim["reference"]).mean, 3),
        ("TIM CPD(A) against baseline, %", 31.5, 100 * change.changes[0].change, 1),
        ("TIM CPD(Z) against baseline, %", -8.4, 100 * change.changes[1].change, 1),
    ]
    lines = [f"{'figure':34}{'published':>10}{'ours':>10}"]
    for name, known, ours, digits in rows:
        mark = "" if round(ours, digits) == known else "   <-- differs"
        lines.append(f"{name:34}{known:>10.{digits}f}{ours:>10.{digits}f}{mark}")
    return [*lines, f"TIM in words: {change}", f"pairs without a partner in the self-generated row: {made.n_dropped}"]


def numbered(values: list[float]) -> dict[str, list[float]]:
    return {f"configuration {i:02d}": [value] for i, value in enumerate(values)}


def named(names: list[str], values: list[float]) -> dict[str, list[float]]:
    return {name: [value] for name, value in zip(names, values, strict=True)}


class Tally:
    """Counts over simulated studies."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.studies = 0

    def add(self, name: str, value: float) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + value

    def percent(self, name: str) -> float:
        return 100 * self.counts.get(name, 0.0) / self.studies


def simulate(population: Planted, n_tasks: int, repeats: int, studies: int, seed: int) -> Tally:
    """Coverage of the true effect and rejections of "no difference", ours and the peers'."""
    rng, tally = np.random.default_rng(seed), Tally()
    level, effect_true = truth(population)
    tally.studies = studies
    for _ in range(studies):
        a, b = population.draw(n_tasks, repeats, rng)
        control, arm = as_scores(a), as_scores(b)
        effect = paired_effect(control, arm, resamples=RESAMPLES, rng=rng)
        verdict = decide(effect)
        assert effect.interval is not None
        assert effect.t_interval is not None
        tally.add("cover", not effect.interval.excludes(effect_true))
        tally.add("width", effect.interval.width)
        tally.add("verdict", verdict.word != "not decided")
        tally.add("strict", effect.p_strict <= 0.05)
        summary = summarise_arm(control).interval
        tally.add("arm", summary is not None and not summary.excludes(level))
        peers(tally, a, b, level, effect_true)
    return tally


def peers(tally: Tally, a: np.ndarray, b: np.ndarray, level: float, effect_true: float) -> None:
    """Pooled trials as if independent, and task means as if of different tasks."""
    z, size = NORMAL.inv_cdf(0.975), a.size
    variance = (a.mean() * (1 - a.mean()) + b.mean() * (1 - b.mean())) / size
    difference = b.mean() - a.mean()
    tally.add("pooled arm", abs(a.mean() - level) <= z * math.sqrt(a.mean() * (1 - a.mean()) / size))
    tally.add("pooled cover", abs(difference - effect_true) <= z * math.sqrt(variance))
    tally.add("pooled width", 2 * z * math.sqrt(variance))
    tally.add("pooled reject", abs(difference) > z * math.sqrt(variance))
    se = math.sqrt((a.mean(1).var(ddof=1) + b.mean(1).var(ddof=1)) / len(a))
    tally.add("unpaired reject", abs(difference) > t_quantile(0.975, 2 * len(a) - 2) * se)


def calibration(studies: int) -> list[str]:
    """One line for each planted population."""
    cases = [
        ("A against A", Planted(effect_sd=0), 87, 3, 4 * studies),
        ("A against A", Planted(effect_sd=0), 50, 3, studies),
        ("A against A", Planted(effect_sd=0), 16, 3, studies),
        ("A against A, K = 1", Planted(effect_sd=0), 87, 1, studies),
        ("+4.9 points, sd 10", Planted(effect=0.05), 87, 3, 4 * studies),
        ("+4.9 points, sd 10", Planted(effect=0.05), 84, 5, studies),
        ("+9 points, sd 10", Planted(effect=0.1), 87, 3, studies),
        ("+9 points, sd 10", Planted(effect=0.1), 50, 3, studies),
        ("+9 points, sd 10", Planted(effect=0.1), 16, 3, studies),
        ("+9 points, sd 10", Planted(effect=0.1), 8, 3, studies),
    ]
    groups = f"{'ours: paired over tasks':^33}|{'pooled trials, unpaired':^25}|{'unpaired':>9}|{'arm covers':^14}"
    columns = f"{'covers':>7}{'width':>7}{'finds':>8}{'strict p':>10} |{'covers':>8}{'width':>8}{'finds':>8} |"
    lines = [
        f"{'':20}{'':>7}{'':>8}{'true':>7}|{groups}",
        f"{'planted':20}{'tasks':>7}{'studies':>8}{'points':>7}|{columns}{'tasks':>9}|{'ours':>7}{'pooled':>7}",
    ]
    for i, (name, population, n_tasks, repeats, count) in enumerate(cases):
        t = simulate(population, n_tasks, repeats, count, seed=100 + i).percent
        ours = f"{t('cover'):>7.1f}{t('width'):>7.1f}{t('verdict'):>8.1f}{t('strict'):>10.1f} |"
        pooled = f"{t('pooled cover'):>8.1f}{t('pooled width'):>8.1f}{t('pooled reject'):>8.1f} |"
        lines.append(
            f"{name:20}{f'{n_tasks}x{repeats}':>7}{count:>8}{100 * truth(population)[1]:>7.1f}|{ours}{pooled}"
            f"{t('unpaired reject'):>9.1f}|{t('arm'):>7.1f}{t('pooled arm'):>7.1f}"
        )
    return [
        *lines,
        "All in per cent; nominal coverage 95; width in points. finds: verdicts of better or worse, which in the rows",
        "A against A are false alarms (nominal 5). strict p: the same by p with ties counted in full. arm: of one",
        "arm's mean. Monte-Carlo error of coverage and false alarms: 0.7 points at 1,000 studies, 0.35 at 4,000.",
        f"{RESAMPLES:,} resamples a study (default 10,000); BCa from {BOOTSTRAP_FROM} tasks on, Student's t below.",
    ]


def few_more(share: float) -> Callable[[int, np.random.Generator], np.ndarray]:
    """An arm that solves a share of the tasks more and changes nothing else: differences of 0 and 1, one-sided."""
    return lambda n, rng: (rng.random(n) < share).astype(float)


def planted(population: Planted) -> Callable[[int, np.random.Generator], np.ndarray]:
    def draw(n: int, rng: np.random.Generator) -> np.ndarray:
        a, b = population.draw(n, 3, rng)
        return b.mean(1) - a.mean(1)

    return draw


def which_interval(studies: int) -> list[str]:
    """Coverage of three intervals of a paired mean: why the default is what it is."""
    up = Planted(effect=0.1)
    cases = [
        ("A against A x 3", planted(Planted(effect_sd=0)), 0.0),
        ("+9 points x 3", planted(up), truth(up)[1]),
        ("solves 10 % more", few_more(0.1), 0.1),
    ]
    lines = [f"{'differences':20}{'tasks':>7}{'Student t':>11}{'BCa':>8}{'BCa, t tails':>14}{'default':>14}"]
    for name, draw, true in cases:
        for n_tasks in (16, 50, 87):
            rng, covered, valid = np.random.default_rng(n_tasks), np.zeros(3), 0
            for _ in range(studies):
                d = draw(n_tasks, rng)
                if np.ptp(d) == 0:
                    continue
                valid += 1
                student = t_interval(float(d.mean()), float(d.std(ddof=1)) / math.sqrt(n_tasks), n_tasks - 1)
                units = collapse(d[:, None])
                drawn = resample(units, RESAMPLES, rng)
                plain, wide = (bca_of(mean_of_first, units, drawn, 0.95, widen=w) or student for w in (False, True))
                covered += [not interval.excludes(true) for interval in (student, plain, wide)]
            shown = 100 * covered / valid
            default = "BCa, t tails" if n_tasks >= BOOTSTRAP_FROM else "Student t"
            lines.append(f"{name:20}{n_tasks:>7}{shown[0]:>11.1f}{shown[1]:>8.1f}{shown[2]:>14.1f}{default:>14}")
    return [
        *lines,
        "Per cent of studies whose interval holds the truth (nominal 95); studies without any spread left out.",
    ]


def speed() -> list[str]:
    """CPU seconds of one whole paired effect with 10,000 resamples, and of scipy's parts."""
    from scipy import stats

    lines = [f"{'one comparison, 10,000 resamples':44}{'ours s':>8}{'scipy s':>9}{'ratio':>7}"]
    rng = np.random.default_rng(5)
    for n_tasks, kind in ((87, "0/1"), (87, "fractions"), (2_000, "fractions"), (20_000, "0/1"), (20_000, "fractions")):
        a, b = Planted(effect=0.05).draw(n_tasks, 3, rng)
        if kind == "fractions":
            a, b = a * rng.random(a.shape), b * rng.random(b.shape)
        control, arm = as_scores(a), as_scores(b)
        paired_effect(control, arm, rng=1)
        start = time.process_time()
        paired_effect(control, arm, rng=1)
        ours = time.process_time() - start
        differences, peer = b.mean(1) - a.mean(1), None
        if n_tasks <= 2_000:
            start = time.process_time()
            stats.bootstrap((differences,), np.mean, method="BCa", n_resamples=10_000, batch=500, rng=2)
            stats.permutation_test(
                (a.mean(1), b.mean(1)),
                difference_of_means,
                permutation_type="samples",
                n_resamples=10_000,
                batch=500,
                vectorized=True,
                rng=2,
            )
            peer = time.process_time() - start
        shown = f"{peer:>9.3f}{peer / ours:>6.0f}x" if peer else f"{'-':>9}{'-':>7}"
        lines.append(f"{f'{n_tasks:,} tasks x 3, {kind}':44}{ours:>8.3f}{shown}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        *lines,
        "scipy: bootstrap(method='BCa') and permutation_test(permutation_type='samples'), in batches of 500;",
        f"ours also pairs the blocks out of dictionaries. Peak memory of the whole process {peak:.0f} MB.",
    ]


def difference_of_means(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(y, axis=axis) - np.mean(x, axis=axis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    parts = [
        ("Published figures, recomputed", golden()),
        ("Speed", speed()),
        ("Planted studies", calibration(options.studies)),
        ("Which interval", which_interval(options.studies)),
    ]
    text = "\n\n".join(f"{title}\n{'-' * len(title)}\n" + "\n".join(lines) for title, lines in parts)
    text += f"\n\n{machine()}; {time.perf_counter() - start:.0f} s\n"
    print(text)
    if options.save:
        print(save("paired-statistics", text))


if __name__ == "__main__":
    main()
