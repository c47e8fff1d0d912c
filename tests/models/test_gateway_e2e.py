"""A real third-party agent behind the gateway: mini-swe-agent, in a sandbox, as an arm of a study."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "gateway_agent.py"
VARIABLE = "FAIRTRIAL_AGENT_PYTHON"


def agent_python() -> str | None:
    """The Python of an environment with mini-swe-agent, if there is one."""
    if named := os.environ.get(VARIABLE):
        return named
    return sys.executable if importlib.util.find_spec("minisweagent") else None


@pytest.mark.skipif(agent_python() is None, reason=f"mini-swe-agent is not installed (nor named by {VARIABLE})")
@pytest.mark.timeout(300)
def test_a_real_agent_solves_a_task_and_the_gateway_holds_what_it_did() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--agent-python", str(agent_python()), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["rewards"] == {"nop": 0.0, "mini": 1.0}
    assert found["calls"] == 4 and found["continued"] == 3 and found["failures"] == 0
    says = found["commands"]["the agent's own"]
    assert len(says) == 5 and says[-1] == "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
    assert all(commands == says for commands in found["commands"].values()), found["commands"].keys()
