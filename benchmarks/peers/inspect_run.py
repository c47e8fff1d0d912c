"""One scenario of Inspect AI with its built-in mock model; prints one JSON line. Run by benchmarks/against_inspect.py.

usage: python inspect_run.py plain|sandbox N [commands per sample]
  plain    one generate call per sample, scored by `match`
  sandbox  the react agent with the bash tool in the "local" sandbox (no isolation), some shell commands per sample
The mock gets an explicit usage: without it Inspect asks the network for a tokenizer table.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("INSPECT_DISPLAY", "none")
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.agent import react
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate
from inspect_ai.tool import bash

SCENARIO, N = sys.argv[1], int(sys.argv[2])
COMMANDS = int(sys.argv[3]) if len(sys.argv) > 3 else 4
MODEL = "mockllm/model"


def with_usage(output: ModelOutput) -> ModelOutput:
    output.usage = ModelUsage(input_tokens=20, output_tokens=5, total_tokens=25)
    return output


def index_of(text: str) -> int:
    return int(text.split()[2].split("+")[0])


def plain_reply(messages, tools, tool_choice, config):
    return with_usage(ModelOutput.from_content(MODEL, str(index_of(messages[-1].text) + 1)))


def shell_reply(messages, tools, tool_choice, config):
    if sum(message.role == "tool" for message in messages) < COMMANDS:
        return with_usage(ModelOutput.for_tool_call(MODEL, "bash", {"command": "echo $((1+1)) > out.txt; cat out.txt"}))
    question = next(message.text for message in messages if message.role == "user")
    return with_usage(ModelOutput.for_tool_call(MODEL, "submit", {"answer": str(index_of(question) + 1)}))


data = MemoryDataset([Sample(input=f"What is {i}+1?", target=str(i + 1)) for i in range(N)])
if SCENARIO == "plain":
    task = Task(dataset=data, solver=generate(), scorer=match())
else:
    task = Task(
        dataset=data, solver=react(tools=[bash(timeout=30)]), scorer=includes(), sandbox="local", message_limit=200
    )
model = get_model(MODEL, custom_outputs=plain_reply if SCENARIO == "plain" else shell_reply)
with tempfile.TemporaryDirectory() as folder:
    start = time.process_time()
    log = inspect_eval(task, model=model, log_dir=folder, max_connections=100, max_samples=100)[0]
    cpu = time.process_time() - start
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
assert log.status == "success", log.error
accuracy = log.results.scores[0].metrics["accuracy"].value
assert accuracy == 1.0, accuracy
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(
    json.dumps(
        {
            "cpu_s": cpu,
            "children_s": children.ru_utime + children.ru_stime,
            "bytes": size,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
