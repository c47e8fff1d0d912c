"""The scripted worker: rules decide, draws come from the seed, bad scripts are refused in words."""

import asyncio
import tracemalloc
from statistics import mean

import pytest
from contract import Bench, EngineCase, block_jobs, canonical, job

from fairtrial.core.errors import UserError
from fairtrial.core.trial import EngineOptions, Work
from fairtrial.engine.local import LocalEngine
from fairtrial.engine.scripted import open_worker


@pytest.fixture
def bench(tmp_path):
    return Bench(EngineCase(LocalEngine, "async"), tmp_path)


def test_an_unknown_key_in_a_script_is_named_with_the_nearest(bench):
    with pytest.raises(UserError, match=r'unknown key "rules\.0\.sucess"; did you mean "success"'):
        open_worker({"rules": [{"sucess": 0.5}]})


def test_a_planted_effect_is_there_and_the_arms_are_paired(bench):
    rules = [{"arm": "b", "success": 0.7}, {"success": 0.4}]
    records = bench.run(block_jobs(2000), rules)
    rewards = {
        arm: [r.scores["reward"] for r in sorted(records, key=lambda r: int(r.key.task[1:])) if r.key.arm == arm]
        for arm in "ab"
    }
    assert mean(rewards["a"]) == pytest.approx(0.4, abs=0.04)
    assert mean(rewards["b"]) == pytest.approx(0.7, abs=0.04)
    assert all(b >= a for a, b in zip(rewards["a"], rewards["b"], strict=True)), "one draw for both arms of a block"


def test_equal_arms_are_equal(bench):
    records = bench.run(block_jobs(200))
    by_arm = {arm: {r.key.task: r.scores for r in records if r.key.arm == arm} for arm in "ab"}
    assert by_arm["a"] == by_arm["b"]


def test_the_first_rule_that_fits_decides_and_chances_are_shares(bench):
    rules = [{"task": "t1?", "reward": 0.25}, {"chance": 0.3, "reward": 0.5}, {"reward": 0.75}]
    records = bench.run(block_jobs(1000, arms=("a",)), rules)
    rewards = {record.key.task: record.scores["reward"] for record in records}
    assert {rewards[f"t1{n}"] for n in range(10)} == {0.25}
    others = [reward for task, reward in rewards.items() if not (task.startswith("t1") and len(task) == 3)]
    assert others.count(0.5) / len(others) == pytest.approx(0.3, abs=0.05)


def test_runs_are_repeatable(bench):
    rules = [{"pad": 500, "blob": 10, "chance": 0.5}, {"fault": "infra", "chance": 0.5}]
    assert canonical(bench.run(block_jobs(20), rules)) == canonical(bench.run(block_jobs(20), rules, in_flight=1))


def test_memory_does_not_grow_with_the_number_of_jobs():
    """A hundred thousand trials must fit where a hundred do: nothing is kept of what was consumed."""

    async def consume(count):
        jobs = (job("ab"[n % 2], f"t{n}", seconds=60 if n % 2 else None) for n in range(count))
        stream = LocalEngine().run(jobs, Work("fairtrial.engine.scripted:open_worker"), EngineOptions(), None)
        seen = 0
        async for _ in stream:
            seen += 1
        assert seen == count

    def peak(count):
        tracemalloc.start()
        asyncio.run(consume(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    small, large = peak(200), peak(6000)
    assert large - small < 200_000
