"""The journal: a run is played again without its tools, and a write that was cut off is not repeated."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fairtrial.agents.execute import Execution, execute
from fairtrial.agents.journal import Journal
from fairtrial.agents.planners.plan import Node, Plan, Ref
from fairtrial.agents.tools.tool import Effect, Tool, ToolError
from fairtrial.core.clock import VirtualClock
from fairtrial.core.errors import CorruptError, StorageError, UserError
from fairtrial.core.virtual_time import run_virtual

OPEN = {"type": "object"}
PLAN = Plan(
    (
        Node("a", "read", {"x": {"é": [1, None]}}),
        Node("flaky", "read", {"fails": 2}),
        Node("never", "read", {"fails": 9}),
        Node("slow", "read", {"s": 100}),
        Node("w", "write", {"of": Ref("a", ("x",))}, ("a",)),
        Node("skipped", "read", {}, ("never",)),
    )
)


class Tools(dict[str, Tool]):
    """A reading and a writing tool that count what they are called for."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.called = clock, list[str]()
        self["read"] = Tool("read", "", OPEN, self.read, retries=2, timeout_s=10)
        self["write"] = Tool("write", "", OPEN, self.write, effect="write")

    async def read(self, args: Mapping[str, Any]) -> Any:
        self.called.append("read")
        await self.clock.sleep(args.get("s", 1))
        if "fails" in args and args["fails"] > self.tries(args):
            raise ToolError("not now")
        return {"got": sorted(args), "x": args.get("x")}

    def tries(self, args: Mapping[str, Any]) -> int:
        self.called.append(f"fails {args['fails']}")
        return self.called.count(f"fails {args['fails']}") - 1

    async def write(self, args: Mapping[str, Any]) -> str:
        self.called.append("write")
        return f"wrote {args['of']}"


def play(journal: Journal, plan: Plan = PLAN, **how: Any) -> tuple[Execution, Tools]:
    clock = VirtualClock()
    tools = Tools(clock)
    with journal:
        done = run_virtual(execute(plan, tools, step=3, clock=clock, journal=journal, run="r1", **how), clock)
    return done, tools


def test_a_recorded_run_is_played_again_without_its_tools(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    done, tools = play(Journal(path))
    assert [result.status for result in done.results] == ["ok", "ok", "error", "timeout", "ok", "skipped"]
    assert [result.attempts for result in done.results] == [1, 3, 3, 1, 1, 0] and tools.called
    again, unused = play(Journal(path, "replay"))
    assert again.results == done.results and not unused.called
    assert [result.value for result in again.results] == [result.value for result in done.results]
    assert again.makespan == 0
    hybrid, unused = play(Journal(path, "hybrid"))
    assert hybrid.results == done.results and not unused.called


@pytest.mark.parametrize("how", [{"deadline": 1.5}, {"deadline": 1.5, "workers": 2}, {"fail_fast": True, "workers": 3}])
def test_a_run_that_was_cut_short_is_cut_short_alike_when_played_again(tmp_path: Path, how: dict[str, Any]) -> None:
    path = tmp_path / "journal.jsonl"
    done, _ = play(Journal(path), **how)
    assert {"timeout", "cancelled", "skipped"} & {result.status for result in done.results}
    again, unused = play(Journal(path, "replay"), **how)
    assert again.results == done.results and not unused.called


def test_a_replay_that_goes_another_way_is_an_error_and_hybrid_calls_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    play(Journal(path), Plan(PLAN.nodes[:1]))
    other = Plan((*PLAN.nodes[:1], Node("b", "read", {"y": 1})))
    with pytest.raises(UserError, match='no call "3/b"'):
        play(Journal(path, "replay"), other)
    done, tools = play(Journal(path, "hybrid"), other)
    assert {result.status for result in done.results} == {"ok"} and tools.called == ["read"]
    again, unused = play(Journal(path, "replay"), other)
    assert again.results == done.results and not unused.called


def test_a_write_that_was_cut_off_is_not_repeated(tmp_path: Path) -> None:
    """Trap 14: where nobody knows whether a write took effect, the model is told so."""
    path = tmp_path / "journal.jsonl"

    class Killed(BaseException):
        pass

    async def dies(args: Mapping[str, Any]) -> str:
        raise Killed

    effects: list[Effect] = ["write", "read"]
    for effect in effects:
        tool = Tool(effect, "", OPEN, dies, effect=effect)
        with pytest.raises(Killed), Journal(path, "hybrid") as journal:
            asyncio.run(
                execute(
                    Plan((Node(effect, effect, {"of": 1}),)),
                    {effect: tool},
                    step=3,
                    clock=VirtualClock(),
                    journal=journal,
                    run="r1",
                )
            )
    plan = Plan((Node("write", "write", {"of": 1}), Node("read", "read", {"of": 1})))
    done, tools = play(Journal(path, "hybrid"), plan)
    assert [result.status for result in done.results] == ["error", "ok"] and tools.called == ["read"]
    assert "not repeated" in done.results[0].text


def test_a_line_cut_off_at_the_end_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    done, _ = play(Journal(path))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "torn')
    again, unused = play(Journal(path, "hybrid"))
    assert again.results == done.results and not unused.called and path.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"key": 1\n', *lines[1:]]))
    with pytest.raises(CorruptError, match="line 2"):
        Journal(path, "replay")


def test_files_that_do_not_go_with_the_mode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with pytest.raises(UserError, match="no such file"):
        Journal(path, "replay")
    play(Journal(path))
    with pytest.raises(UserError, match="hybrid"):
        Journal(path)


def test_two_runs_of_one_name_do_not_share_calls_by_accident(tmp_path: Path) -> None:
    clock = VirtualClock()
    tools = Tools(clock)

    async def main(journal: Journal) -> None:
        for run in ("r1", "r2", "r1"):
            await execute(Plan(PLAN.nodes[:1]), tools, step=0, clock=clock, journal=journal, run=run)

    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(UserError, match="name of its own"):
        run_virtual(main(journal), clock)
    assert tools.called == ["read", "read"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/journal.jsonl.*No such file"):
        Journal(tmp_path / "no" / "journal.jsonl")


def test_a_full_disk_ends_the_run_with_one_line_and_leaves_nothing_running() -> None:
    with pytest.raises(StorageError, match=r"No space left.*hybrid"):
        play(Journal(Path("/dev/full"), "hybrid"))


def test_the_journal_is_the_same_set_of_lines_whatever_the_latencies(tmp_path: Path) -> None:
    lines: set[str] = set()
    for number, workers in enumerate([None, 1, 2]):
        path = tmp_path / f"{number}.jsonl"
        play(Journal(path), workers=workers)
        lines.add(json.dumps(sorted(path.read_text().splitlines())))
    assert len(lines) == 1
