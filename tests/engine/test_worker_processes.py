"""Worker processes: what dies or hangs costs only its job, Ctrl-C is the driver's, and nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contract import Bench, EngineCase, block_jobs, job, summary

from fairtrial.core.errors import InfraError
from fairtrial.core.record import Outcome
from fairtrial.engine.local import LocalEngine


@pytest.fixture
def bench(tmp_path):
    return Bench(EngineCase(LocalEngine, "process"), tmp_path)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition, seconds=15.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(("fault", "says"), [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("exit", "exit code 3")])
def test_a_process_that_dies_costs_only_its_job_and_is_replaced(bench, fault, says):
    jobs = [*block_jobs(3), job("x", "dies"), *block_jobs(3, arms=("c",))]
    records = bench.run(jobs, [{"arm": "x", "attempts": [1, 2], "fault": fault}, {"reward": 1.0}], in_flight=2)
    dead = sorted((r for r in records if r.outcome is Outcome.ERRORED), key=lambda r: r.key.attempt)
    assert summary(dead) == [("x/dies#0", "errored", "worker_died"), ("x/dies#0.2", "errored", "worker_died")]
    assert all(says in r.message and not r.scores and r.timings is not None for r in dead)
    assert len(records) == len(jobs) + 2 and not bench.children()


def test_a_process_killed_from_outside_while_it_works(bench):
    async def run():
        stream = bench.start([job(task="slow"), *block_jobs(4)], [{"task": "slow", "attempts": [1], "work_s": 60.0}])
        records = []
        async for record in stream:
            records.append(record)
            if len(records) == 8:  # all but the slow one
                while not any("slow" in line for line in bench.lines("start")):
                    await asyncio.sleep(0.02)
                for pid in bench.children():
                    os.kill(int(pid), signal.SIGKILL)
        return records

    records = asyncio.run(run())
    slow = [record for record in records if record.key.task == "slow"]
    assert summary(slow) == [("a/slow#0", "errored", "worker_died"), ("a/slow#0.2", "scored", None)]
    assert len(records) == 10, "the idle processes that were killed too cost nothing"


def test_code_that_never_returns_to_the_loop_is_killed_after_its_time(bench):
    records = bench.run(
        [job(task="loop", seconds=0.3), *block_jobs(2, seconds=60)],
        [{"task": "loop", "fault": "block"}, {"reward": 1.0}],
        in_flight=1,
        script={"failed": 0.1},
    )
    assert (records[0].outcome, records[0].cause, records[0].scores) == (Outcome.FAILED, "seconds", {"reward": 0.1})
    assert records[0].flags == ("ignored_cancellation",)
    assert records[0].timings.working_s >= 0.3
    assert [record.scores for record in records[1:]] == [{"reward": 1.0}] * 4


def test_waiting_for_a_provider_for_long_is_not_taken_for_hanging(bench):
    (record,) = bench.run([job(seconds=0.1)], [{"wait_s": 4.0, "reward": 1.0}])
    assert record.outcome is Outcome.SCORED and record.timings.waiting_s >= 4.0


def test_processes_leave_ctrl_c_to_the_driver(bench):
    async def run():
        stream = bench.start(block_jobs(2), [{"work_s": 0.5, "reward": 1.0}], in_flight=2)
        records = [await anext(stream)]
        for pid in bench.children():
            assert os.getpgid(int(pid)) != os.getpgrp(), "the terminal's Ctrl-C does not reach it"
            os.kill(int(pid), signal.SIGINT)
        return records + [record async for record in stream]

    assert summary(asyncio.run(run())) == [(f"{arm}/t{n}#0", "scored", None) for arm in "ab" for n in range(2)]


def test_processes_are_used_again(bench):
    bench.run(block_jobs(20), in_flight=2)
    assert len(bench.lines("open")) == len(bench.lines("close")) <= 2


def test_processes_that_die_at_their_start_end_the_run_with_the_reason(bench):
    with pytest.raises(InfraError, match="exit code 7"):
        bench.run(block_jobs(5), target="workers_for_tests:dies_at_once")
    assert not bench.children()


def test_a_process_killed_from_outside_while_it_starts_is_started_again(bench, tmp_path):
    records = bench.run(block_jobs(3), target="workers_for_tests:killed_once", in_flight=1)
    assert (tmp_path / "killed_once").exists()
    assert [record.scores for record in records] == [{"reward": 1.0}] * 6


def test_processes_that_are_killed_at_every_start_end_the_run_with_the_reason(bench):
    with pytest.raises(InfraError, match="SIGKILL while it started"):
        bench.run(block_jobs(5), target="workers_for_tests:killed_at_every_start")
    assert not bench.children()


def test_what_a_worker_prints_does_not_reach_standard_output(bench, capfd, tmp_path, monkeypatch):
    (tmp_path / "talker.py").write_text(
        "from fairtrial.engine.scripted import open_worker as build\n"
        "def open_worker(settings):\n    print('chatter')\n    return build(settings)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(bench.run([job()], target="talker:open_worker")) == 1
    out, err = capfd.readouterr()
    assert "chatter" not in out and "chatter" in err


DRIVER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from contract import Bench, EngineCase, block_jobs
from fairtrial.engine.local import LocalEngine

bench = Bench(EngineCase(LocalEngine, "process"), Path({folder!r}), grace_s=0.2)
print("ready", flush=True)
bench.run(block_jobs(4), [{{"work_s": 600.0}}], in_flight=2)
"""


def test_worker_processes_end_when_the_driver_is_killed(tmp_path):
    """Also: a script without a `__main__` guard may run a study in processes."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    driver = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    bench = Bench(EngineCase(LocalEngine, "process"), tmp_path)
    eventually(lambda: len(bench.lines("start")) == 2)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    assert len(children) == 2
    driver.kill()
    driver.communicate()
    eventually(lambda: not any(alive(pid) for pid in children))
    assert len(bench.lines("cancel")) == len(bench.lines("close")) == 2, "each cleaned up after itself"
