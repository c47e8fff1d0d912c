"""The sandbox "none": only when asked for, usable by tasks that keep to relative paths, marked in every record."""

import asyncio
import json

from fairtrial.agents.trial import AgentTrial, open_worker
from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.record import TrialKey
from fairtrial.core.trial import Job, TrialContext

RELATIVE = {
    "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY number.txt tool.py /app/\n",
    "environment/tool.py": "print(21)\n",
    "solution/solve.sh": "cp number.txt answer.txt\n",
    "tests/test.sh": 'number=$("$FAIRTRIAL_CANDIDATE" --timeout 9 -- python3 tool.py)\n'
    "grep -qx $number answer.txt && r=1 || r=0; echo $r > $FAIRTRIAL_ROOT/logs/verifier/reward.txt\n",
}


def test_records_made_without_isolation_say_so(lab, script):
    lab.task(**RELATIVE)
    kind = AgentTrial()
    suite = lab.suite(sandbox="none")
    arms = {
        "oracle": lab.arm("oracle"),
        "nop": lab.arm("nop"),
        "mine": lab.arm(script("print(open('number.txt').read())")),
    }
    kind.check(suite, arms, lab.root)
    cache = lab.root.parent / "cache"
    assert list(asyncio.run(kind.gate(suite, lab.root, kind.tasks(suite, lab.root), cache))) == []

    async def trials():
        worker = open_worker(json.loads(json.dumps(kind.work(suite, arms, lab.root).settings)))
        clock = SystemClock()
        try:
            for arm in arms:
                context = TrialContext(clock, Timer(clock), Meter(Limits()), lab.blobs)
                yield await worker.run(Job(TrialKey(arm=arm, task="double", repeat=0), 1, 2), context)
        finally:
            await worker.close()

    async def collect():
        return [record async for record in trials()]

    oracle, nop, mine = asyncio.run(collect())
    assert (oracle.scores["reward"], nop.scores["reward"], mine.scores["reward"]) == (1.0, 0.0, 0.0)
    assert lab.out(mine) == "21\n\n"
    for record in (oracle, nop, mine):
        assert {"not_isolated", "candidate_not_isolated"} <= set(record.flags)
        assert record.provenance["sandbox"] == "none"
