"""Real text: EM and F1 of a scripted reader by policy and planner, beside what the decomposition allows.

usage: python benchmarks/real_text.py [--save] [--questions FILE ...] [--documents FOLDER] [--top-k 5]
    [--search-in all|own] [--n N]

Questions: by default MuSiQue and HotpotQA under ../shared/cases/runtime. The reader knows each question's decomposition
(HotpotQA's is derived; three questions have none), but it knows a step's value only once it has found its page with
BM25 and opened it. What the decomposition allows is computed without model, policy or planner. With readers the
planners that can say so plan a whole question at once: search, choose, open and read for each step.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from pathlib import Path

from machine import machine, save

from fairtrial.agents.accounting import Estimate, visited
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.gold_reader import UNKNOWN, GoldReader
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.reader import Reader
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.tasks.worlds.decomposition import fill
from fairtrial.tasks.worlds.real_text import Documents, DocumentsSettings

CASES = Path(__file__).parents[2] / "shared" / "cases" / "runtime"
POLICIES = {
    "append": "append",
    "last-n, n 1": {"id": "last-n", "n": 1},
    "clear-results, keep 1": {"id": "clear-results", "keep": 1},
    "rewrite": "rewrite",
    "summarise-at 600": {"id": "summarise-at", "trigger": 600, "keep_last": 1},
    "fold": "fold",
    "fold, released form": {"id": "fold", "dialect": "released"},
    "fold-fixed, period 3": {"id": "fold-fixed", "period": 3},
    "fold-random, deep 0.5": {"id": "fold-random", "deep": 0.5},
}
PLANNERS = {
    "react": "react",
    "native": "native",
    "graph": "graph",
    "graph tasks": {"id": "graph", "dialect": "tasks"},
    "graph joined": {"id": "graph", "dialect": "joined"},
    "compiler": "compiler",
    "rewoo": "rewoo",
}


def play(world, model, episode, policy, planner, reader):
    """The log of one episode."""
    clock = SimulatedClock()
    tools = [
        Tool(each.name, each.description, each.parameters, each.call) for each in world.functions(episode, clock, 1)
    ]
    runtime = Runtime(
        model,
        open_policy(policy, Estimate(4.0)),
        open_planner(planner),
        tools,
        clock,
        budget=Budget(40),
        reader=Reader(model, 1, clock=clock) if reader else None,
    )
    log = runtime.begin(episode.question, seed=1)
    asyncio.run(runtime.play(log))
    return log


def recall(world, episodes):
    """How many supporting paragraphs BM25 finds: with the question as it is, and with the gold sub-questions."""
    lines = ["supporting paragraphs found by BM25      R@2    R@5   R@10"]
    plain = {k: [] for k in (2, 5, 10)}
    stepped = {k: [] for k in (2, 5, 10)}
    for episode in episodes:
        values = {step.id: step.value for step in episode.plan}
        for k in plain:
            found = world.find(episode, episode.question, k)
            plain[k] += [page in found for page in episode.facts["supporting"]]
            for step in episode.plan:
                if step.page is not None:
                    stepped[k].append(step.page in world.find(episode, fill(step, values), k))
    for name, found in (("the question", plain), ("the decomposition, gold values", stepped)):
        shown = "".join(f"{sum(hits) / max(1, len(hits)):7.3f}" for hits in found.values())
        lines.append(f"{name:37}{shown}   ({len(found[2])} look-ups)")
    return lines


def table(world, episodes, allowed):
    """One line for each combination, printed as it comes; last, how many differ from what is allowed."""
    model, lines, differing = GoldReader(world), [], 0
    for (policy_name, policy), (planner_name, planner) in itertools.product(POLICIES.items(), PLANNERS.items()):
        for reader in (False,) if planner_name in ("react", "native", "graph joined") else (False, True):
            logs = [play(world, model, episode, policy, planner, reader) for episode in episodes]
            scores = [
                world.grade(episode, log.answer, visited(log)) for episode, log in zip(episodes, logs, strict=True)
            ]
            said = [(log.answer or "").strip() for log in logs]
            same = sum(a == (b or UNKNOWN).strip() for a, b in zip(said, allowed, strict=True))
            differing += same != len(logs)
            calls = sum(len(step.planned.plan.nodes) for log in logs for step in log.steps)
            em, f1 = (sum(each[score] for each in scores) / len(logs) for score in ("em", "f1"))
            lines.append(
                f"{policy_name:22} {planner_name:13} {'yes' if reader else 'no':7} {em:6.3f} {f1:6.3f} "
                f"{f'{same}/{len(logs)}':>13} {sum(len(log.steps) for log in logs) / len(logs):6.2f} "
                f"{calls / len(logs):6.2f}"
            )
            print(lines[-1], flush=True)
    lines.append(f"combinations that differ from what the decomposition allows: {differing}")
    print(lines[-1])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--questions", nargs="+", default=[str(CASES / "musique.json"), str(CASES / "hotpotqa.json")])
    parser.add_argument("--documents")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--search-in", default="all", choices=["all", "own"])
    parser.add_argument("--n", type=int)
    given = parser.parse_args()
    settings = DocumentsSettings(
        questions=tuple(given.questions), documents=given.documents, top_k=given.top_k, search_in=given.search_in,
        n=given.n,
    )  # fmt: skip
    world = Documents(settings, Path.cwd())
    episodes = world.episodes()
    allowed = [world.follow(episode).answer for episode in episodes]
    graded = [world.grade(episode, answer, ()) for episode, answer in zip(episodes, allowed, strict=True)]
    mean = {score: sum(each[score] for each in graded) / len(graded) for score in ("em", "f1")}
    ratio = sum(each.steps for each in episodes) / max(1, sum(each.critical_path for each in episodes))
    head = [
        machine(),
        f"{len(episodes)} questions, {sum(not each.plan for each in episodes)} without a plan; steps over critical "
        f"path {ratio:.3f}; top_k {given.top_k}, search in {given.search_in}",
        *recall(world, episodes),
        f"the decomposition allows EM {mean['em']:.3f}, F1 {mean['f1']:.3f}",
        "",
        f"{'policy':22} {'planner':13} {'reader':7} {'EM':>6} {'F1':>6} {'same answers':>13} {'turns':>6} {'calls':>6}",
    ]
    print("\n".join(head), flush=True)
    begin = time.process_time()
    lines = head + table(world, episodes, allowed)
    print(f"({time.process_time() - begin:.0f} CPU seconds)")
    if given.save:
        save("real-text", "\n".join(lines))


if __name__ == "__main__":
    main()
