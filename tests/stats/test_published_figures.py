"""Published tables, recomputed: the golden numbers that the statistics must give."""

import json
from pathlib import Path

import numpy as np
import pytest

from fairtrial.stats.gain import gains
from fairtrial.stats.metrics import improvement, norm_perf, run_scores
from fairtrial.stats.paired import paired_effect

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"
BENCH = json.loads((PUBLISHED / "skillsbench.json").read_text())
GYM = json.loads((PUBLISHED / "researchgym.json").read_text())


def single(names, values):
    return {str(name): [value] for name, value in zip(names, values, strict=True)}


def test_eighteen_configurations_give_the_published_lift():
    table = BENCH["v4_configurations"]
    effect = paired_effect(single(range(18), table["none"]), single(range(18), table["curated"]), rng=0)
    assert round(effect.control_mean, 2) == 33.92
    assert round(effect.arm_mean, 2) == 50.53
    assert round(effect.estimate, 2) == 16.61
    assert effect.interval.low > 13
    assert effect.p_strict == pytest.approx(2 / 2**18)  # all eighteen improve


def test_the_two_definitions_of_gain_are_not_mixed_up():
    table = BENCH["v4_configurations"]
    result = gains([x / 100 for x in table["none"]], [x / 100 for x in table["curated"]])
    assert round(100 * result.macro, 2) == 25.56
    assert round(100 * result.of_means, 2) == 25.14
    assert result.undefined == 0


def test_domains_are_weighted_by_their_tasks():
    table = BENCH["v4_domains"]
    tasks = {
        arm: {
            f"{d}-{i}": [x]
            for d, n, x in zip(table["names"], table["tasks"], table[arm], strict=True)
            for i in range(n)
        }
        for arm in ("none", "curated")
    }
    families = {task: task.rsplit("-", 1)[0] for task in tasks["none"]}
    effect = paired_effect(tasks["none"], tasks["curated"], clusters=families, rng=0)
    assert effect.n_tasks == 87
    assert effect.n_clusters == 8
    assert round(effect.control_mean, 2) == 33.93
    assert round(effect.arm_mean, 2) == 50.50


def test_first_version_of_the_benchmark():
    table = BENCH["v1_configurations"]
    effect = paired_effect(single(table["names"], table["none"]), single(table["names"], table["curated"]), rng=0)
    assert [round(x, 2) for x in (effect.control_mean, effect.arm_mean, effect.estimate)] == [24.34, 40.56, 16.21]


def test_self_generated_skills_are_compared_on_the_same_configurations():
    table, own = BENCH["v1_configurations"], BENCH["v1_self_generated"]
    effect = paired_effect(single(table["names"], table["none"]), single(own["names"], own["self"]), rng=0)
    assert [round(x, 2) for x in (effect.arm_mean, effect.control_mean, effect.estimate)] == [20.96, 22.30, -1.34]
    assert np.mean(own["self"]) - np.mean(table["none"]) == pytest.approx(-3.38, abs=0.01)  # the lazy comparison
    assert {(d.task, d.missing) for d in effect.dropped} == {("Gemini 3 Flash", "arm"), ("Gemini 3 Pro", "arm")}


def test_a_run_without_a_result_counts_as_zero():
    scores = run_scores(GYM["mdt_runs_with_a_result"], planned=3)
    assert round(scores.mean, 3) == 0.165
    assert scores.best == 0.494
    assert scores.missing == 2
    text = str(scores)
    assert all(part in text for part in ("mean 0.165", "best@3 0.494", "sd 0.285", "0.494, 0.000, 0.000", "2 without"))


def test_one_success_that_is_half_a_failure_does_not_print_as_success():
    tim = GYM["tim"]
    change = improvement(tim["best"], tim["baseline"])
    assert str(change) == "1 of 2 metrics improved: CPD(A) +31.5 %, CPD(Z) -8.4 %"
    assert not change.success
    assert norm_perf([tim["best"]], tim["reference"]).mean == pytest.approx(1.072, abs=5e-4)


def test_means_over_the_five_research_tasks():
    assert round(float(np.mean(list(GYM["norm_perf_mean"].values()))), 3) == 0.394
    assert round(float(np.mean(list(GYM["norm_perf_best"].values()))), 3) == 0.763
