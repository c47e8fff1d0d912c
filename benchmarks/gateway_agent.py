"""A real agent from PyPI behind the gateway: mini-swe-agent solves a task of core-tasks against a scripted model.

The agent is the arm of a study (agent `command`, its package shown read-only in the box, network to reach the gateway
on this machine), beside the control that does nothing; the task's own verifier gives the verdict. The agent writes its
trajectory itself as well, so that the gateway's record can be compared with it, action by action. Then the record is
exported to ADP and to OpenAI messages. Beside it: what recording costs, in CPU time, as a session grows.

    python -m venv /tmp/agent && /tmp/agent/bin/pip install mini-swe-agent==2.4.6 "litellm[mcp]"
    python benchmarks/gateway_agent.py --agent-python /tmp/agent/bin/python [--save] [--json]

The agent's environment must have the Python version that fairtrial runs on: the box has no other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import tomli_w
from machine import machine, save

from fairtrial.core.clock import SystemClock
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats.reading import Options, read
from fairtrial.models.gateway.recording import Recording, Route
from fairtrial.models.gateway.sessions import Sessions
from fairtrial.models.model import Message, Request
from fairtrial.models.scripted import Script, ScriptedModel
from fairtrial.store import RunDir

ROOT = Path(__file__).resolve().parents[1]
TASK = "bugfix-interval-merge"
CLI = [sys.executable, "-c", "from fairtrial.app.cli import main; main()"]
# The verb alone, whose process can be told to stop.
GATEWAY = "import typer; from fairtrial.app.gatewaying import register; app = typer.Typer(); register(app); app()"
AGENT = (
    "cd /app && exec python3 -m minisweagent.run.mini --yolo --exit-immediately --agent-class default"
    ' --task "$(cat "$FAIRTRIAL_INSTRUCTION")" --model openai/scripted --output "$FAIRTRIAL_TRAJECTORY"'
    " --config mini.yaml --config model.model_kwargs.api_base=$GATEWAY/s/mini-$FAIRTRIAL_TASK/v1"
)


def script(folder: Path) -> Path:
    """What the scripted model says: it looks, writes the author's repair, runs the tests, and hands in."""
    solution = ROOT / "src/fairtrial/tasks/core_tasks" / TASK / "solution/algebra.py"
    write = f"cat > spans/algebra.py <<'PYTHON'\n{solution.read_text()}PYTHON"
    steps = [
        ("I look at the package first.", ["ls -R . | head -20", "cat spans/__init__.py"]),
        ("The code does not keep the contract; I write it anew.", [write]),
        ("Do the tests pass?", ["python3 -m unittest discover -q -s tests"]),
        ("They do.", ["echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"]),
    ]
    replies = [
        {"text": said, "tool_calls": [{"name": "bash", "arguments": {"command": command}} for command in commands]}
        for said, commands in steps
    ]
    path = folder / "script.json"
    path.write_text(json.dumps({"replies": replies}))
    return path


def study(folder: Path, packages: Path, address: str) -> Path:
    """The study: doing nothing, and the agent."""
    env = {
        "GATEWAY": address,
        "PYTHONPATH": f"/agent/{packages.name}",
        "OPENAI_API_KEY": "none",
        "MSWEA_CONFIGURED": "true",
        "MSWEA_COST_TRACKING": "ignore_errors",
        "MSWEA_GLOBAL_CONFIG_DIR": "/tmp/mini",
        "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "2",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    mini = {"id": "command", "command": ["sh", "-c", AGENT], "files": [str(packages)], "env": env, "network": "public"}
    table = {
        "title": "A third-party agent behind the gateway",
        "repeats": 1,
        "suite": {"id": "core-tasks", "tasks": [TASK]},
        "arms": {"nop": {"control": True, "agent": "nop"}, "mini": {"agent": mini}},
    }
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def commands_of(row: dict[str, Any]) -> list[str]:
    """The commands that a trajectory says were run."""
    found: list[str] = []
    for item in row["content"]:
        if item["class_"] == "api_action":
            found.append(item["kwargs"]["command"])
        elif item["class_"] == "code_action":
            found.append(item["content"])
    return found


def experiment(agent_python: str, folder: Path) -> dict[str, Any]:
    """Run the agent and read what was recorded."""
    where = (
        "import minisweagent, pathlib; print(pathlib.Path(minisweagent.__file__).parents[1], minisweagent.__version__)"
    )
    quiet = os.environ | {"MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(folder / "mini")}
    said = subprocess.run([agent_python, "-c", where], capture_output=True, text=True, check=True, env=quiet).stdout
    packages, version = said.split()[-2:]
    out, run = folder / "recorded", folder / "run"
    command = [sys.executable, "-c", GATEWAY, f"scripted:{script(folder)}", "-o", str(out), "--port", "0", "--json"]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert gateway.stdout is not None
        address = orjson.loads(gateway.stdout.readline())["url"].removesuffix("/v1")
        began = time.perf_counter()
        subprocess.run(
            [*CLI, "run", str(study(folder, Path(packages), address)), "-o", str(run), "--quiet", "--no-report"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - began
    finally:
        gateway.send_signal(signal.SIGINT)
        gateway.wait(30)
    exported = {name: _exported(out, folder / f"{name}.jsonl", name) for name in ("adp", "openai-chat")}
    with RunDir.open(run) as opened:
        records = {record.key.arm: record for record in opened.records(latest=True)}
    own = records["mini"].trajectory
    shown = subprocess.run(
        [*CLI, "show", str(out), f"mini-{TASK}", "--json"], check=True, capture_output=True
    ).stdout  # as a user sees it
    recorded = Trajectory.model_validate_json(shown)
    return {
        "agent": f"mini-swe-agent {version}",
        "seconds": seconds,
        "rewards": {arm: record.scores.get("reward") for arm, record in records.items()},
        "sandbox": records["mini"].provenance.get("sandbox"),
        "calls": len(recorded.model_calls),
        "continued": continued(recorded),
        "failures": len((recorded.extra.get("gateway") or {}).get("failures", [])),
        "commands": {
            "the agent's own": commands_of(own.model_dump(mode="json")) if own is not None else [],
            "the gateway's": commands_of(recorded.model_dump(mode="json")),
        }
        | exported,
    }


def _exported(out: Path, path: Path, format: str) -> list[str]:
    """The commands in an export of the one trajectory, read back."""
    subprocess.run([*CLI, "export", str(out), str(path), "--to", format], check=True, stdout=subprocess.DEVNULL)
    [reading] = read(str(path), Options(format=format))
    assert reading.row is not None, reading.problem
    return commands_of(reading.row)


def continued(recorded: Trajectory) -> int:
    """How many calls' prompts begin with the whole prompt and completion of the call before, id for id."""
    count = 0
    for call in range(1, len(recorded.model_calls)):
        before = (*recorded.prompt_ids(call - 1), *(recorded.model_calls[call - 1].completion_ids or ()))
        count += recorded.prompt_ids(call)[: len(before)] == before
    return count


def cost(turns: tuple[int, ...] = (10, 100, 400)) -> list[tuple[int, float, float]]:
    """Turns, and CPU milliseconds a call without and with the recording, over the last ten turns."""

    async def session(record: bool, folder: Path, last: int) -> float:
        sessions = Sessions(folder, SystemClock())
        model = ScriptedModel(Script(replies=("done, next " * 20,), after="last"), SystemClock())
        messages: list[Message] = [Message(role="user", content="begin " * 400)]
        began = 0.0
        for turn in range(last):
            if turn == last - 10:
                began = time.process_time()
            asked = Request(messages=tuple(messages))
            reply = await (Recording(model, sessions, Route("s")) if record else model).generate(asked)
            messages += [Message(role="assistant", content=reply.text), Message(role="user", content="output " * 100)]
        sessions.close()
        return (time.process_time() - began) * 100

    rows: list[tuple[int, float, float]] = []
    for last in turns:
        with tempfile.TemporaryDirectory() as folder:
            alone, recorded = (asyncio.run(session(on, Path(folder) / str(on), last)) for on in (False, True))
        rows.append((last, alone, recorded))
    return rows


def table(found: dict[str, Any]) -> str:
    """What was found, as text."""
    said = found["commands"]["the agent's own"]
    lines = [
        f"{found['agent']} as an arm of a study, in a sandbox ({found['sandbox']}), against scripted, by the gateway",
        f"task {TASK}: reward " + ", ".join(f"{arm} {reward:g}" for arm, reward in found["rewards"].items()),
        f"calls recorded {found['calls']}, failures {found['failures']}",
        f"prompts that continue the call before, id for id: {found['continued']} of {found['calls'] - 1}",
        "",
        f"{'commands in the trajectory':30}{'commands':>10}{'same as the agent says':>26}",
    ]
    for name, commands in found["commands"].items():
        lines.append(f"{name:30}{len(commands):>10}{'yes' if commands == said else 'NO':>26}")
    lines += [
        "",
        f"{'session of':>12}{'model alone':>16}{'recorded':>14}{'added':>12}  (CPU ms a call, last ten calls)",
    ]
    for turns, alone, recorded in cost():
        lines.append(f"{turns:>6} turns{alone:>16.2f}{recorded:>14.2f}{recorded - alone:>12.2f}")
    return "\n".join([*lines, "", machine()])


def main() -> None:
    """Print the table; with --json, what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--agent-python", required=True, help="Python of an environment with mini-swe-agent.")
    arguments.add_argument("--save", action="store_true")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = experiment(options.agent_python, Path(folder))
    if options.json:
        print(orjson.dumps(found).decode())
        return
    text = table(found)
    print(text)
    if options.save:
        save("gateway-agent", text)


if __name__ == "__main__":
    main()
