"""A training run as a trial: paired, resumable, chosen on validation; sparse stages start from one dense model."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from fairtrial.core.clock import SystemClock, Timer  # noqa: E402
from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.core.limits import Limits, Meter  # noqa: E402
from fairtrial.core.record import BlobRef, Outcome, Record, TrialKey  # noqa: E402
from fairtrial.core.trial import Job, TrialContext  # noqa: E402
from fairtrial.studies.study import Study, bind  # noqa: E402
from fairtrial.training.measuring import measure  # noqa: E402
from fairtrial.training.trial import TrainingTrial, TrainingWorker, model_config  # noqa: E402

MODEL = {
    "hidden": 32, "layers": 2, "intermediate": 64, "heads": 2, "head_dim": 16, "kda_heads": 2, "kda_key_dim": 16,
    "kda_gate_rank": 8, "kv_rank": 16, "nope_dim": 16, "rope_dim": 16, "mla_value_dim": 16, "mla_rope": "half",
    "index_heads": 2, "index_dim": 16,
}  # fmt: skip
RECALL = {"task": "mqar", "vocab": 32, "length": 20, "pairs": 3}
SHORT = {"steps": 16}


class NoBlobs:
    def put(self, content: bytes) -> BlobRef:
        raise AssertionError("a training trial stores nothing large")


def study(arms: dict[str, dict[str, Any]], tasks: dict[str, dict[str, Any]] | None = None, **more: Any) -> Study:
    first, *_ = arms
    return Study.model_validate(
        {
            "title": "t",
            "kind": "training",
            "suite": {
                "tasks": tasks or {"recall": RECALL}, "model": MODEL, "validation": 16, "test": 32, "batch": 8,
                "evaluations": 4,
            },
            "arms": {name: {**arm, **({"control": True} if name == first else {})} for name, arm in arms.items()},
            **more,
        }
    )  # fmt: skip


def worker(
    arms: dict[str, dict[str, Any]], cache: Path, tasks: dict[str, dict[str, Any]] | None = None
) -> TrainingWorker:
    bound = bind(study({**arms, "other": {"pattern": "FF"}}, tasks), cache)
    return TrainingWorker(bound.suite, bound.arms, cache)  # type: ignore[arg-type]


def run(one: TrainingWorker, arm: str, task: str = "recall", repeat: int = 0) -> Record:
    seed = 1000 + repeat
    clock = SystemClock()
    context = TrialContext(clock, Timer(clock), Meter(Limits()), NoBlobs())
    key = TrialKey(arm=arm, task=task, repeat=repeat)
    return asyncio.run(one.run(Job(key, seed, block_seed=5), context))


def test_equal_arms_of_a_block_agree_to_the_last_digit_and_repeats_differ(tmp_path: Path) -> None:
    arm = {"pattern": "KF", **SHORT}
    one = run(worker({"a": arm}, tmp_path / "a"), "a")
    two = run(worker({"b": arm}, tmp_path / "b"), "b")
    other = run(worker({"a": arm}, tmp_path / "a"), "a", repeat=1)
    assert one.outcome is Outcome.SCORED and set(one.scores) == {"accuracy", "peak"}
    assert one.scores == two.scores and one.details["curve"] == two.details["curve"]
    assert one.details["curve"] != other.details["curve"]
    assert one.details["parameters"] > 10_000 and one.details["tokens_per_cpu_s"] > 0


def test_an_interrupted_trial_continues_from_its_checkpoint_with_the_same_result(tmp_path: Path) -> None:
    arm = {"pattern": "KF", **SHORT, "lr": [1e-3]}
    whole = worker({"a": arm}, tmp_path / "whole")
    parts = worker({"a": arm}, tmp_path / "parts")
    suite, settings, task = parts.suite, parts.arms["a"], parts.suite.tasks["recall"]
    config = model_config(suite, settings, suite.cells["recall"])
    steps = measure(suite, settings, task, config, 1000, tmp_path / "parts")  # type: ignore[arg-type]
    assert len(list(itertools.islice(steps, 10))) == 10
    steps.close()  # killed after step 10; the last evaluation was at step 8
    left = measure(suite, settings, task, config, 1000, tmp_path / "parts")  # type: ignore[arg-type]
    after = 0
    while True:
        try:
            next(left)
            after += 1
        except StopIteration as end:
            resumed = end.value
            break
    assert after == 8
    expected = run(whole, "a")
    assert resumed.scores == expected.scores
    assert resumed.details["curve"] == expected.details["curve"]


def test_the_learning_rate_is_chosen_by_validation_and_a_diverged_one_is_named(tmp_path: Path) -> None:
    record = run(worker({"a": {"pattern": "FF", **SHORT, "lr": [1e30, 3e-3]}}, tmp_path), "a")
    assert record.outcome is Outcome.SCORED and record.details["lr"] == 3e-3
    assert list(record.details["diverged_at"]) == ["1e+30"]


def test_a_trial_that_diverges_at_every_rate_failed_and_is_not_an_error(tmp_path: Path) -> None:
    record = run(worker({"a": {"pattern": "FF", **SHORT, "lr": [1e30]}}, tmp_path), "a")
    assert record.outcome is Outcome.FAILED and record.cause == "diverged"
    assert record.scores == {"accuracy": 0.0, "peak": 0.0}


def test_a_window_of_all_keys_is_dense_attention_and_a_narrow_one_is_not(tmp_path: Path) -> None:
    data = {"task": "mqar", "vocab": 16, "length": 12, "pairs": 1}
    tasks = {"recall": {**data, "k": [12, 1]}}
    long = {"steps": 300, "lr": [1e-2]}
    arms = {
        "dense": {"pattern": "MM", **long},
        "window": {"pattern": "DD", "select": "window", **long},
        "random": {"pattern": "DD", "select": "random", **long},
        "warm": {"pattern": "DD", "select": "indexer", "warmup": 20, **long},
        "shared": {"pattern": "DS", "select": "indexer", "warmup": 20, "joint": 4, **long},
    }
    bench = worker(arms, tmp_path, tasks)
    dense, dense_again = run(bench, "dense", "recall/k12"), run(bench, "dense", "recall/k1")
    assert dense.scores == dense_again.scores, "each k tests one dense model"
    assert dense.scores["accuracy"] > 0.5
    assert run(bench, "window", "recall/k12").scores["accuracy"] == dense.scores["accuracy"]
    assert run(bench, "window", "recall/k1").scores["accuracy"] < 0.5 * dense.scores["accuracy"]
    assert run(bench, "random", "recall/k12").scores["accuracy"] == dense.scores["accuracy"]
    warm = run(bench, "warm", "recall/k1")
    assert warm.details["kl_warm"] < warm.details["kl_untrained"]
    assert run(bench, "warm", "recall/k12").scores["accuracy"] == dense.scores["accuracy"]
    assert run(bench, "shared", "recall/k1").details["kl_joint"] > 0


def test_a_probe_needs_no_training_and_says_what_the_pattern_can_do(tmp_path: Path) -> None:
    probes = {"over": {"task": "overwrite"}, "two": {"task": "two-channel"}}
    bench = worker({"kda": {"pattern": "KK"}, "no-delta": {"pattern": "NN"}}, tmp_path, probes)
    assert run(bench, "kda", "over").scores["accuracy"] == pytest.approx(1.0)
    assert run(bench, "no-delta", "over").scores["accuracy"] == pytest.approx(0.0, abs=1e-6)
    assert run(bench, "kda", "two").scores["peak"] == 1.0


@pytest.mark.slow
def test_a_study_of_two_mixers_runs_through_the_engine_and_resumes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAIRTRIAL_CACHE", str(tmp_path / "cache"))
    arms = {"full": {"pattern": "FF", **SHORT}, "kda": {"pattern": "KK", **SHORT}}
    small = study(arms, repeats=2, engine={"in_flight": 2}, analysis={"resamples": 200})
    with small.run(tmp_path / "run") as done:
        records = list(done.records())
        assert {record.key.arm for record in records} == {"full", "kda"} and len(records) == 4
        assert all(record.outcome is Outcome.SCORED for record in records)
    with small.run(tmp_path / "run") as again:
        assert len(list(again.records())) == 4


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"pattern": "KX"}, 'unknown letter "X"'),
        ({"pattern": "KK", "model": {"kda_key_dims": 3}}, 'did you mean "kda_key_dim"'),
        ({"pattern": "FF", "model": {"vocab": 3}}, '"vocab" is set by the task'),
        ({"pattern": "FF", "warmup": 3}, "need a selection"),
        ({"pattern": "FF", "select": "window"}, "layers that can select"),
        ({"pattern": "DD"}, 'say how with "select"'),
        ({"pattern": "DD", "select": "window", "warmup": 3}, "warmup trains the indexer"),
        ({"pattern": "DD", "select": "window"}, 'set its "k"'),
        ({"pattern": "FF", "lr": []}, "lr"),
        ({"pattern": "FF", "step": 3}, 'did you mean "steps"'),
    ],
)
def test_an_arm_that_cannot_run_is_refused_in_one_line_before_anything_runs(
    arm: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        bound = bind(study({"a": arm, "b": {"pattern": "FF"}}), tmp_path)
        TrainingTrial().check(bound.suite, bound.arms, tmp_path)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_each_draw_is_a_task_and_one_draw_at_several_k_is_a_family(tmp_path: Path) -> None:
    tasks = {"plain": RECALL, "sparse": {**RECALL, "k": [2, 4]}, "over": {"task": "overwrite"}}
    suite = bind(study({"a": {"pattern": "FF"}, "b": {"pattern": "PP"}}, tasks), tmp_path).suite
    wide = suite.model_copy(update={"draws": 2})
    found = {task.id: task.family for task in TrainingTrial().tasks(wide, tmp_path)}
    assert found == {
        "plain/1": None, "plain/2": None,
        "sparse/k2/1": "sparse/1", "sparse/k2/2": "sparse/2", "sparse/k4/1": "sparse/1", "sparse/k4/2": "sparse/2",
        "over/1": None, "over/2": None,
    }  # fmt: skip
    assert [task.id for task in TrainingTrial().tasks(suite, tmp_path)] == ["plain", "sparse/k2", "sparse/k4", "over"]


def test_one_k_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="twice") as raised:
        bind(study({"a": {"pattern": "FF"}, "b": {"pattern": "PP"}}, {"t": {**RECALL, "k": [2, 2]}}), tmp_path)
    assert "\n" not in str(raised.value)
