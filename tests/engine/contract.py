"""What every engine promises, as behaviour that a study would notice.

A test module for an engine defines the fixture `engine` (an `EngineCase`) and imports all names from here. Trials are
played by `fairtrial.engine.scripted`, whose journal file tells from outside the engine what was started and closed.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from workers_for_tests import FolderBlobs

from fairtrial.core.errors import InfraError, StorageError, UserError
from fairtrial.core.ids import canonical_json, seed
from fairtrial.core.limits import Limits
from fairtrial.core.record import Outcome, Record, TrialKey
from fairtrial.core.trial import ArmOptions, Engine, EngineOptions, Job, Work
from fairtrial.engine.local import LocalEngine


@dataclass(frozen=True)
class EngineCase:
    make: Callable[..., Engine]
    """Called with `clock` (or nothing) and `grace_s`."""
    mode: str
    """The work's mode: what the tests of process deaths need to know."""


STUDY = 7


def job(arm="a", task="t0", repeat=0, attempt=1, **limits):
    key = TrialKey(arm=arm, task=task, repeat=repeat, attempt=attempt)
    return Job(key, seed(STUDY, task, repeat, "sampling"), STUDY, Limits(**limits))


def block_jobs(tasks, arms=("a", "b"), repeats=1, **limits):
    return [
        job(arm, f"t{task}", repeat, **limits) for task in range(tasks) for repeat in range(repeats) for arm in arms
    ]


class Bench:
    """One engine with its scripted worker, journal and blobs."""

    def __init__(self, case, folder, grace_s=1.0):
        self.case, self.folder, self.grace_s = case, folder, grace_s
        self.journal = folder / "journal"

    def start(self, jobs, rules=(), clock=None, target="fairtrial.engine.scripted:open_worker", script=None, **options):
        settings = {"rules": list(rules), "journal": str(self.journal), **(script or {})}
        work = Work(target, settings, mode=self.case.mode)
        options = EngineOptions(**{"backoff_s": 0.0, **options})
        return self.case.make(clock=clock, grace_s=self.grace_s).run(jobs, work, options, FolderBlobs(self.folder))

    def run(self, jobs, rules=(), **kwargs):
        async def collect():
            return [record async for record in self.start(jobs, rules, **kwargs)]

        return asyncio.run(collect())

    def lines(self, word):
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.removeprefix(word).strip() for line in lines if line.split()[0] == word]

    def most_at_once(self, arm=""):
        running = most = 0
        for line in self.journal.read_text().splitlines():
            if line.startswith(f"start {arm}"):
                running += 1
            elif line.startswith((f"end {arm}", f"cancel {arm}")):
                running -= 1
            most = max(most, running)
        return most

    def children(self):
        return [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


@pytest.fixture
def bench(engine, tmp_path):
    return Bench(engine, tmp_path)


def summary(records):
    return sorted((str(record.key), record.outcome.value, record.cause) for record in records)


def canonical(records):
    """Records as bytes, without what may differ between two runs of one study."""
    kept = [record.model_dump(mode="json", exclude={"timings", "provenance"}) for record in records]
    return sorted(canonical_json(record) for record in kept)


# --- the plain course -------------------------------------------------------------------------------------------


def test_no_jobs_give_no_records(bench):
    assert bench.run([]) == []


def test_one_job_gives_one_complete_record(bench):
    (record,) = bench.run([job()], [{"reward": 0.25, "blob": 1000, "pad": 100}])
    assert record.key == job().key and record.seed == job().seed
    assert record.outcome is Outcome.SCORED and record.scores == {"reward": 0.25}
    assert record.usage.tokens == 120, "the meter's usage is filled in where the worker gave none"
    assert record.timings is not None and record.timings.wall_s >= record.timings.working_s
    assert (bench.folder / record.artifacts["scripted.bin"].sha256).stat().st_size == 1000
    assert bench.lines("close"), "the worker is closed"


def test_a_thousand_jobs_run_once_each_in_the_given_order(bench):
    jobs = block_jobs(250, repeats=2)
    records = bench.run(jobs, in_flight=1)
    assert [record.key for record in records] == [one.key for one in jobs]
    assert bench.lines("start") == [str(one.key) for one in jobs]


def test_as_many_run_at_once_as_allowed_and_no_more(bench):
    bench.run(block_jobs(12), [{"work_s": 0.05}], in_flight=3)
    assert bench.most_at_once() == 3


def test_jobs_are_taken_only_when_there_is_room_to_start_them(bench):
    taken = itertools.count()
    pulled = []

    def source():
        for one in block_jobs(50):
            pulled.append(next(taken))
            yield one

    async def run():
        stream = bench.start(source(), in_flight=2)
        most, seen = 0, 0
        async for _ in stream:
            seen += 1
            most = max(most, len(pulled) - seen)
        return most

    assert asyncio.run(run()) <= 2 * 2


def test_a_slow_consumer_holds_the_engine_back(bench):
    async def run():
        stream = bench.start(block_jobs(100), in_flight=2)
        await anext(stream)
        await asyncio.sleep(0.5)
        started = len(bench.lines("start"))
        await stream.stop()
        return started

    assert asyncio.run(run()) <= 1 + 2 * 2


MIXED = [
    {"arm": "b", "task": "t1", "fault": "bug", "message": "planted"},
    {"arm": "a", "task": "t2", "fault": "wrong_key"},
    {"arm": "a", "task": "t3", "fault": "infra", "attempts": [1, 2], "cause": "provider"},
    {"arm": "b", "task": "t4", "usage": {"calls": 9}},
    {"arm": "b", "task": "t5", "fault": "not_json"},
    {"arm": "b", "success": 0.9, "chance": 0.5, "pad": 6000, "blob": 50},
    {"chance": 0.3, "fault": "infra"},
]


def test_the_same_study_leaves_the_same_records_on_every_engine(bench, tmp_path):
    jobs = block_jobs(15, repeats=2, calls=5)
    other = tmp_path / "reference"
    other.mkdir()
    reference = Bench(EngineCase(LocalEngine, "async"), other).run(jobs, MIXED, in_flight=1)
    records = bench.run(jobs, MIXED, in_flight=3)
    assert canonical(records) == canonical(reference)
    assert {record.outcome for record in records} == {Outcome.SCORED, Outcome.FAILED, Outcome.ERRORED}


# --- errors and attempts ----------------------------------------------------------------------------------------


def test_an_infrastructure_error_is_recorded_and_tried_again(bench):
    records = bench.run([job()], [{"fault": "infra", "cause": "sandbox", "attempts": [1, 2]}, {"reward": 1.0}])
    assert summary(records) == [
        ("a/t0#0", "errored", "sandbox"),
        ("a/t0#0.2", "errored", "sandbox"),
        ("a/t0#0.3", "scored", None),
    ]
    assert all(not record.scores for record in records[:2]), "an error is never a zero"
    assert records[0].message == "a scripted fault"


def test_attempts_end(bench):
    records = bench.run([job()], [{"fault": "infra"}], attempts=4)
    assert [record.key.attempt for record in records] == [1, 2, 3, 4]


def test_attempts_are_counted_over_resumes(bench):
    jobs = [job(task="t0", attempt=2), job(task="t1", attempt=3), job(task="t2", attempt=9)]
    records = bench.run(jobs, [{"fault": "infra"}], attempts=3)
    assert sorted(str(record.key) for record in records) == ["a/t0#0.2", "a/t0#0.3", "a/t1#0.3", "a/t2#0.9"]


def test_what_cannot_be_helped_is_not_tried_again_and_says_so(bench):
    (record,) = bench.run([job()], [{"fault": "infra", "retryable": False, "cause": "quota"}])
    assert (record.cause, record.flags) == ("quota", ("not_retryable",))


@pytest.mark.parametrize(
    ("fault", "cause", "says"),
    [
        ("bug", "bug", "ZeroDivisionError: a scripted fault"),
        ("system_exit", "bug", "SystemExit"),
        ("wrong_key", "bug", "a record of a/another-task#0 for a/t0#0"),
        ("wrong_seed", "bug", "seed"),
        ("not_a_record", "bug", "dict and not a Record"),
        ("not_json", "bug", "not JSON"),
        ("user_error", "user_error", "a scripted fault"),
    ],
)
def test_a_bug_is_errored_once_with_what_a_developer_needs(bench, fault, cause, says):
    records = bench.run([job(), job(task="t1")], [{"task": "t0", "fault": fault}, {"reward": 1.0}])
    bad = next(record for record in records if record.key.task == "t0")
    assert len(records) == 2, "not tried again"
    assert (bad.outcome, bad.cause, bad.flags) == (Outcome.ERRORED, cause, ("not_retryable",))
    assert says in (bad.message or "")
    if fault == "bug":
        assert "Traceback" in bad.message and "scripted.py" in bad.message


def test_a_huge_message_is_capped(bench):
    (record,) = bench.run([job()], [{"fault": "infra", "message": "x" * 100_000}], attempts=1)
    assert len(record.message) < 10_000 and "left out" in record.message


def test_an_overrun_limit_is_a_failure_scored_by_the_tasks_rule(bench):
    (record,) = bench.run([job(calls=3)], [{"usage": {"calls": 4, "input_tokens": 50}}], script={"failed": 0.1})
    assert (record.outcome, record.cause, record.scores) == (Outcome.FAILED, "calls", {"reward": 0.1})
    assert record.usage.input_tokens == 50, "what was spent stays counted"


def test_a_full_disk_ends_the_run(bench):
    with pytest.raises(StorageError, match="no space"):
        bench.run(block_jobs(20), [{"task": "t3", "fault": "disk_full", "message": "no space left"}])
    assert bench.lines("close")


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        ("workers_for_tests:refuses", UserError, "tinny"),
        ("workers_for_tests:unreachable", InfraError, "does not answer"),
        ("workers_for_tests:has_a_bug", Exception, "missing"),
        ("workers_for_tests:no_such_name", UserError, "no_such_name"),
        ("no_such_module:x", UserError, "no_such_module"),
        ("nonsense", UserError, "module:callable"),
    ],
)
def test_a_worker_that_cannot_be_built_ends_the_run_with_the_reason(bench, target, error, says):
    with pytest.raises(error, match=says):
        bench.run(block_jobs(3), target=target)
    assert not bench.children()


def test_an_error_of_the_callers_own_jobs_reaches_the_caller(bench):
    def source():
        yield job()
        raise RuntimeError("the plan is broken")

    with pytest.raises(RuntimeError, match="the plan is broken"):
        bench.run(source())


# --- time -------------------------------------------------------------------------------------------------------


def test_a_trial_that_works_too_long_fails_and_one_that_waits_does_not(bench):
    jobs = [job(task="slow", seconds=0.2), job(task="patient", seconds=0.2)]
    rules = [{"task": "slow", "work_s": 30.0}, {"wait_s": 0.6, "reward": 1.0}]
    began = time.monotonic()
    records = {record.key.task: record for record in bench.run(jobs, rules)}
    assert time.monotonic() - began < 20
    assert (records["slow"].outcome, records["slow"].cause) == (Outcome.FAILED, "seconds")
    assert records["slow"].scores == {"reward": 0.0}
    assert records["patient"].outcome is Outcome.SCORED
    assert records["patient"].timings.waiting_s >= 0.6 > 0.2 >= records["patient"].timings.working_s
    assert bench.lines("cancel") == ["a/slow#0"]


def test_a_late_answer_keeps_its_trajectory_but_not_its_score(bench):
    rules = [{"fault": "answer_cancel", "reward": 1.0, "pad": 50}]
    (record,) = bench.run([job(seconds=0.2)], rules)
    assert (record.outcome, record.cause, record.scores) == (Outcome.FAILED, "seconds", {"reward": 0.0})
    assert record.trajectory is not None and len(record.trajectory.content[0].content) == 50


def test_a_worker_that_ignores_cancellation_does_not_block_the_run(bench):
    jobs = [job(task="stuck", seconds=0.2), *block_jobs(3)]
    with pytest.warns(RuntimeWarning, match="stuck") if bench.case.mode == "async" else nullcontext():
        records = bench.run(jobs, [{"task": "stuck", "fault": "ignore_cancel", "hang_s": 5.0}], in_flight=1)
    stuck = next(record for record in records if record.key.task == "stuck")
    assert (stuck.outcome, stuck.cause) == (Outcome.FAILED, "seconds")
    assert stuck.flags == ("ignored_cancellation",)
    assert len(records) == 7


def test_retries_wait_as_long_as_the_other_side_asked(bench):
    began = time.monotonic()
    bench.run([job()], [{"attempts": [1], "fault": "infra", "retry_after_s": 0.7}])
    assert time.monotonic() - began >= 0.7


# --- arms -------------------------------------------------------------------------------------------------------


def test_an_arms_concurrency_is_respected_and_the_other_arm_goes_on(bench):
    arms = {"a": ArmOptions(concurrency=1)}
    rules = [{"arm": "a", "work_s": 0.25}, {"work_s": 0.01}]
    records = bench.run(block_jobs(8), rules, in_flight=4, arms=arms)
    assert len(records) == 16
    assert bench.most_at_once("a/") == 1
    assert [record.key.arm for record in records][-2:] == ["a", "a"], "b was done while a still queued"
    assert [line for line in bench.lines("start") if line.startswith("a")] == [f"a/t{task}#0" for task in range(8)]


def test_an_arms_rate_is_respected(bench):
    began = time.monotonic()
    bench.run(block_jobs(4, arms=("a",)), in_flight=4, arms={"a": ArmOptions(per_minute=300)})
    assert time.monotonic() - began >= 3 * 60 / 300


# --- ending early -----------------------------------------------------------------------------------------------


def test_drain_finishes_what_runs_and_starts_nothing_more(bench):
    async def run():
        stream = bench.start(block_jobs(50), [{"work_s": 0.2}], in_flight=3)
        records = [await anext(stream)]
        stream.drain()
        started = len(bench.lines("start"))
        records += [record async for record in stream]
        return started, records

    started, records = asyncio.run(run())
    assert len(bench.lines("start")) - started <= 3, "only what was already on its way to a process"
    assert Counter(str(record.key) for record in records) == Counter(bench.lines("start"))
    assert all(record.outcome is Outcome.SCORED for record in records)
    assert bench.lines("close") and not bench.children()


def test_drain_drops_pending_retries(bench):
    async def run():
        stream = bench.start([job()], [{"fault": "infra", "retry_after_s": 60.0}])
        first = await anext(stream)
        stream.drain()
        return first, [record async for record in stream]

    began = time.monotonic()
    first, rest = asyncio.run(run())
    assert first.outcome is Outcome.ERRORED and rest == []
    assert time.monotonic() - began < 30


def test_drain_before_the_start_runs_nothing(bench):
    async def run():
        stream = bench.start(block_jobs(5))
        stream.drain()
        return [record async for record in stream]

    assert asyncio.run(run()) == [] and not bench.lines("start")


def test_stop_cancels_yields_nothing_and_leaves_nothing_behind(bench):
    async def run():
        before = asyncio.all_tasks()
        stream = bench.start(block_jobs(50), [{"task": "t0", "arm": "a"}, {"work_s": 60.0}], in_flight=3)
        await anext(stream)
        while len(bench.lines("start")) < 4:
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await stream.stop()
        seconds = time.monotonic() - began
        rest = [record async for record in stream]
        await stream.stop()
        return seconds, rest, asyncio.all_tasks() - before

    seconds, rest, tasks = asyncio.run(run())
    assert rest == [] and not tasks and seconds < 10
    assert len(bench.lines("cancel")) == 3
    assert len(bench.lines("close")) == len(bench.lines("open"))
    assert not bench.children()


def test_stop_before_the_start_and_while_waiting(bench):
    async def run():
        stream = bench.start(block_jobs(5), [{"work_s": 60.0}])
        waiting = asyncio.create_task(_all(stream))
        await asyncio.sleep(0.1)
        await stream.stop()
        unstarted = bench.start(block_jobs(5))
        await unstarted.stop()
        return await waiting, await _all(unstarted)

    assert asyncio.run(run()) == ([], [])
    assert not bench.children()


async def _all(stream):
    return [record async for record in stream]


def test_a_worker_that_cannot_be_closed_is_reported_and_costs_no_record(bench):
    with pytest.warns(RuntimeWarning, match="a scripted failure to close"):
        records = bench.run([job()], script={"close": "raise"})
    assert len(records) == 1


def test_a_worker_that_hangs_in_close_does_not_hang_the_run(bench):
    with pytest.warns(RuntimeWarning, match="closing the worker failed"):
        records = bench.run([job()], script={"close": "hang"})
    assert len(records) == 1 and not bench.children()


def test_records_survive_json(bench):
    for record in bench.run(block_jobs(3), MIXED):
        again = Record.model_validate(json.loads(record.model_dump_json()))
        assert again == record
