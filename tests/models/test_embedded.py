"""The kind `tiny`: folders of small random models, real generation, prompts of the agents' planners and policies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import openai
from model_server import served
from pydantic import ValidationError

from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode import EpisodeTrial
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.reader import _RULES as READER_RULES
from fairtrial.agents.reader import Reader
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models.embedded import routing
from fairtrial.models.embedded.index import Habit, load, write_index
from fairtrial.models.embedded.kind import WEIGHTS, Tiny, TinySettings
from fairtrial.models.embedded.model import EmbeddedModel
from fairtrial.models.model import ContextTooLongError, Message, Pair, Request, Sampling
from fairtrial.models.native.model import digest
from fairtrial.models.opening import check_model, files_digest, open_model
from fairtrial.training.tiny import vocabulary

SMALL: dict[str, Any] = {
    "hidden": 32, "layers": 2, "pattern": "KF", "intermediate": 64, "heads": 2, "head_dim": 16, "kda_heads": 2,
    "kda_key_dim": 16, "kda_gate_rank": 8, "window": 8, "init_std": 0.2, "tied": True,
}  # fmt: skip
ARMS = {
    "append": ("append", "react"),
    "rewrite": ("rewrite", "react"),
    "fold": ("fold", "react"),
    "fold-imposed": ("fold-fixed", "react"),
    "graph": ("append", "graph"),
}
"""Habit -> policy and planner."""


async def _nothing(args: Any) -> str:
    return ""


def tool(name: str, argument: str) -> Tool:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return Tool(name, f"To {name}.", schema, _nothing)


VISIT, SEARCH, READ = tool("visit", "title"), tool("search", "query"), tool("read", "question")


def rules(policy: str | dict[str, Any], planner: str | dict[str, Any], *tools: Tool, told: str = "") -> str:
    """The system message that the runtime sends for these, by the runtime itself."""
    from fairtrial.agents.runtime import Runtime

    opened = open_policy(policy, lambda messages: 0)
    runtime: Any = Runtime(None, opened, open_planner(planner), tools, SimulatedClock())  # type: ignore[arg-type]
    return runtime.begin("Who?", told=told).asked.rules


def make(folder: Path, habits: dict[str, Habit], *, sizes: dict[str, int] | None = None) -> Path:
    """A folder of random models, and its index."""
    from fairtrial.nn import hub
    from fairtrial.nn.config import ModelConfig
    from fairtrial.nn.model import Model

    texts = [rules(*arm, VISIT) for arm in ARMS.values()]
    tokenizer = vocabulary.make(texts, constant=vocabulary.lines(texts), most=50)
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    for seed, habit in enumerate(habits.values()):
        vocab = (sizes or {}).get(habit.folder, tokenizer.vocab_size)
        hub.save(Model(ModelConfig(vocab=vocab, **SMALL), seed), folder / habit.folder)
    write_index(folder, habits)
    return folder


def trained_for(policy: str, planner: str, **fields: Any) -> dict[str, Any]:
    return {"rules": routing.rule_lines([rules(policy, planner, VISIT)]), **fields}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the habits of ARMS, "reader" and "text"; "fold" takes 600 tokens. Do not change it."""
    habits = {
        name: Habit(folder=name, default=name == "append", context=600 if name == "fold" else None, **trained_for(*arm))
        for name, arm in ARMS.items()
    }
    habits["reader"] = Habit(folder="reader", rules=routing.rule_lines([READER_RULES]))
    habits["text"] = Habit(folder="text")
    return make(tmp_path_factory.mktemp("embedded") / "mine", habits)


def asking(system: str | None, user: str = "Who is Balabo ?", **sampling: Any) -> Request:
    head = () if system is None else (Message(role="system", content=system),)
    chosen = Sampling(**{"temperature": 0, "max_tokens": 8, **sampling})
    return Request(messages=(*head, Message(role="user", content=user)), sampling=chosen)


def with_model(folder: Path, use: Any, **settings: Any) -> Any:
    async def main() -> Any:
        model = Tiny.open(TinySettings(path=str(folder), **settings), Path())
        try:
            return await use(model)
        finally:
            await model.close()

    return asyncio.run(main())


@pytest.mark.parametrize("habit", ARMS)
def test_each_arm_of_a_study_is_answered_by_its_own_habit_whatever_its_tools(folder: Path, habit: str):
    async def use(model: EmbeddedModel) -> None:
        policy, planner = ARMS[habit]
        for tools in ((VISIT,), (SEARCH, VISIT), (SEARCH, VISIT, READ)):
            assert model.habit(asking(rules(policy, planner, *tools))) == habit
        told = "A recipe.\n" + "\n".join(f"{n}. Do thing {n}." for n in range(200))
        assert model.habit(asking(rules(policy, planner, VISIT, told=told))) == habit
        reply = await model.generate(asking(rules(policy, planner, VISIT)))
        assert reply.model == f"tiny:{habit}"
        assert reply.weights_version == digest(folder / habit)
        assert len(reply.completion_ids or ()) == reply.usage.output_tokens > 0

    with_model(folder, use)


def test_variants_of_a_policy_share_its_habit(folder: Path):
    async def use(model: EmbeddedModel) -> None:
        drawn = {"id": "fold-random", "deep": 0.5}
        assert model.habit(asking(rules(drawn, "react", VISIT))) == "fold-imposed"
        assert model.habit(asking(rules({"id": "last-n", "n": 3}, "react", VISIT))) == "append"

    with_model(folder, use)


def test_a_reader_of_documents_is_asked_under_rules_of_its_own(folder: Path):
    async def use(model: EmbeddedModel) -> None:
        read = Reader(model, 0, Sampling(temperature=0, max_tokens=4)).tool.call
        with contextlib.suppress(ToolError):
            await read({"question": "Who is Balabo ?", "document": "Balabo is a page ."})
        assert model.opened == {"reader"}

    with_model(folder, use)


def test_without_rules_or_with_others_the_default_answers_and_texts_are_scored_by_their_habit(folder: Path):
    async def use(model: EmbeddedModel) -> None:
        short = Sampling(max_tokens=4, temperature=0)
        for request in (
            asking(None),
            asking("Be kind."),
            Request(prompt="Who is", sampling=short),
            Request(prompt_ids=(20, 21), sampling=short),
        ):
            assert (await model.generate(request)).model == "tiny:append"
        pairs = [Pair("Who is", " Balabo"), Pair("Who", " is")]
        scores = await model.score(pairs)
        assert model.opened == {"append", "text"}
        assert all(score.logprob < 0 for score in scores)
        return scores

    async def alone(model: EmbeddedModel) -> None:
        return await model.score([Pair("Who is", " Balabo"), Pair("Who", " is")])

    assert with_model(folder, use) == with_model(folder, alone, habit="text")
    assert with_model(folder, use) != with_model(folder, alone, habit="append")


def test_a_habit_that_is_named_answers_everything_and_no_other_is_read(folder: Path):
    async def use(model: EmbeddedModel) -> None:
        assert (model.name, model.context, model.opened) == ("tiny:fold", 600, frozenset())
        for request in (asking(rules("append", "react", VISIT)), asking(None)):
            assert (await model.generate(request)).model == "tiny:fold"
        await model.score([Pair("a", "b")])
        assert model.opened == {"fold"}

    with_model(folder, use, habit="fold")


def test_a_crowd_over_several_habits_gets_what_each_gets_alone(folder: Path):
    wanted = [asking(rules(*ARMS[name], VISIT), f"Who is {n} ?") for n in range(6) for name in ("append", "graph")]

    async def crowd(model: EmbeddedModel) -> list[Any]:
        replies = await asyncio.gather(*(model.generate(request) for request in wanted))
        assert model.opened == {"append", "graph"}
        return [(reply.model, reply.completion_ids, reply.logprobs) for reply in replies]

    async def alone(model: EmbeddedModel) -> list[Any]:
        replies = [await model.generate(request) for request in wanted]
        return [(reply.model, reply.completion_ids, reply.logprobs) for reply in replies]

    together = with_model(folder, crowd, exact=True)
    assert together == with_model(folder, alone, exact=True)
    assert [model for model, _, _ in together] == ["tiny:append", "tiny:graph"] * 6
    assert together[0][1] != together[1][1], "two habits have two models"


def test_a_stream_goes_through_and_a_closed_model_stays_closed(folder: Path):
    async def use(model: EmbeddedModel) -> EmbeddedModel:
        pieces: list[str] = []
        reply = await model.generate(asking(None), on_delta=lambda delta: pieces.append(delta.text))
        assert "".join(pieces) == reply.text
        task = asyncio.create_task(model.generate(asking(rules("fold", "react", VISIT), max_tokens=200)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await model.generate(asking(rules("fold", "react", VISIT)))).model == "tiny:fold"
        return model

    closed = with_model(folder, use)
    for system in (None, rules("append", "graph", VISIT)):
        with pytest.raises(RuntimeError, match="closed"):
            asyncio.run(closed.generate(asking(system)))


def test_a_prompt_longer_than_the_habit_was_trained_on_is_refused_in_one_line(folder: Path):
    async def use(model: EmbeddedModel) -> None:
        assert model.context == 8192
        long = " ".join(f"Name {n} ." for n in range(400))
        with pytest.raises(ContextTooLongError, match=r'the prompt has \d+ tokens, "tiny:fold" takes 600: shorten it'):
            await model.generate(asking(rules("fold", "react", VISIT), long))
        assert (await model.generate(asking(rules("append", "react", VISIT), long))).model == "tiny:append"
        to_the_end = await model.generate(asking(rules("fold", "react", VISIT), max_tokens=100_000, temperature=1))
        assert to_the_end.usage.input_tokens + to_the_end.usage.output_tokens <= 600

    with_model(folder, use)


def test_choosing_is_by_shared_lines_and_a_tie_or_nothing_goes_to_the_default():
    habits = {"a": ["one"], "b": ["one", "two"], "c": ["one", "three"], "d": []}
    assert routing.choose(["one"], habits, "d") == "a"
    assert routing.choose(["two", "one"], habits, "d") == "b"
    assert routing.choose(["one", "four", "two"], habits, "d") == "b"
    assert routing.choose(["two", "three", "one"], habits, "d") == "d", "b and c overlap alike"
    assert routing.choose(["five"], habits, "d") == routing.choose([], habits, "d") == "d"
    assert routing.choose(["one"], {}, "d") == "d"


def test_schemas_of_tools_are_no_rules_but_examples_of_calls_are():
    deep = '{"name": ' + "[" * 100_000
    call = '{"name": "visit", "arguments": {"title": "..."}}'
    lines = ["Rule.", "", "  Rule.  ", json.dumps(VISIT.schema["function"]), call, deep]
    assert routing.rule_lines(["\n".join(lines)]) == ("Rule.", call, deep)


def test_the_index_is_read_back_as_written_and_needs_one_default(folder: Path, tmp_path: Path):
    habits = load(folder).habits
    assert list(habits) == [*ARMS, "reader", "text"]
    assert write_index(folder, habits) == load(folder)
    for changed in (
        {"text": Habit(folder="text")},
        {n: h.model_copy(update={"default": True}) for n, h in habits.items()},
    ):
        with pytest.raises(UserError, match="exactly one has default = true"):
            write_index(folder, changed)
    for name in ("..", "a/b", "/etc", ".hidden", ""):
        with pytest.raises(ValidationError):
            Habit(folder=name)
    with pytest.raises(UserError, match=r"no such folder; .* names it for the habit"):
        write_index(folder, {"new": Habit(folder="new", default=True)})
    assert sorted(path.name for path in folder.iterdir()) == sorted([*habits, "index.json", "tokenizer.json"])


def test_a_folder_that_is_not_whole_is_refused_in_one_line_before_anything_is_opened(tmp_path: Path):
    habits = {"append": Habit(folder="append", default=True), "fold": Habit(folder="fold")}
    whole = make(tmp_path / "whole", habits)
    index, weights = whole / "index.json", whole / "fold" / "model.safetensors"
    good_index, good_weights = index.read_text(), weights.read_bytes()

    def problem(**table: Any) -> str:
        with pytest.raises(UserError) as caught:
            Tiny.check(TinySettings(**{"path": str(whole), **table}), tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    Tiny.check(TinySettings(path="whole"), tmp_path)
    assert "did you mean" in problem(habit="flod") and '"fold"' in problem(habit="flod")
    assert problem(path="fold").endswith('/fold: no such folder; a habit is given as habit = "NAME"')
    assert "it is a native model" in problem(path="whole/fold")
    for text, said in (
        ("{", "not valid JSON"),
        ('{"version": 2, "habits": {}}', '"version"'),
        ("[]", "index.json"),
        (good_index.replace('"rules"', '"rulez"'), "rulez"),
        (good_index.replace('"fold",', '"../fold",'), "folder"),
    ):
        index.write_text(text)
        assert said in problem() and "index.json" in problem()
    index.write_text(good_index)
    weights.write_bytes(good_weights[:-100])
    assert "model.safetensors" in problem()
    weights.unlink()
    assert "fold" in problem()
    weights.write_bytes(good_weights)
    (whole / "fold" / "config.json").rename(tmp_path / "config.json")
    assert "config.json: no such file" in problem()
    (tmp_path / "config.json").rename(whole / "fold" / "config.json")
    (whole / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert "tokenizer.json: no such file; it belongs to all habits" in problem()


def test_a_model_that_is_too_small_for_the_tokenizer_is_named_when_it_is_asked(tmp_path: Path):
    habits = {"append": Habit(folder="append", default=True), "fold": Habit(folder="fold", rules=("Fold.",))}
    wrong = make(tmp_path / "wrong", habits, sizes={"fold": 100})

    async def use(model: EmbeddedModel) -> None:
        for _ in range(2):
            with pytest.raises(UserError, match=r"tiny:fold: the tokenizer has .* not of one training"):
                await model.generate(asking("Fold."))
        assert (await model.generate(asking(None))).model == "tiny:append"

    with_model(wrong, use)


def test_tiny_is_a_model_by_its_name_alone_and_needs_weights(folder: Path):
    """As it stands in a study; a tree without weights says so in one line."""
    specs: tuple[tuple[str | dict[str, Any], str], ...] = (
        (f"tiny:{folder}", "tiny"),
        ({"kind": "tiny", "path": folder.name}, "tiny"),
        ({"kind": "tiny", "path": folder.name, "habit": "fold"}, "tiny:fold"),
    )
    for spec, name in specs:
        check_model(spec, folder.parent)
        model = open_model(spec, folder.parent)
        assert model.name == name
        asyncio.run(model.close())
    for shipped in ("tiny", {"kind": "tiny"}):
        if (WEIGHTS / "index.json").is_file():
            check_model(shipped, Path())
        else:
            with pytest.raises(UserError, match=r"^arm: this installation ships no weights of tiny; name a folder"):
                check_model(shipped, Path(), where="arm")
    for spec in ("native", "tiny:", "nothing"):
        with pytest.raises(UserError, match=f'arm: "{spec}" is not KIND:TEXT; known kinds: .*tiny:'):
            check_model(spec, Path(), where="arm")


def test_without_torch_one_line_names_the_extra(folder: Path):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from fairtrial.core.errors import UserError\n"
        "from fairtrial.models.opening import check_model\n"
        "try: check_model({'kind': 'tiny', 'path': sys.argv[1]}, Path())\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == 'model: tiny needs torch, which is not installed: pip install "fairtrial[local]"\n'


def test_over_http_the_rules_of_a_request_choose_the_habit(folder: Path):
    model = Tiny.open(TinySettings(path=str(folder)), Path())
    with served(model) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)
        assert [listed.id for listed in client.models.list()] == ["tiny"]
        messages: Any = [
            {"role": "system", "content": rules("rewrite", "react", SEARCH)},
            {"role": "user", "content": "Who?"},
        ]
        done = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
        assert done.choices[0].finish_reason in ("stop", "length")
        assert model.opened == {"rewrite"}
        with pytest.raises(openai.BadRequestError, match="tiny:fold"):
            messages[0]["content"] = rules("fold", "react", SEARCH)
            messages[1]["content"] = "Name 7 ." * 600
            client.chat.completions.create(model="tiny", messages=messages)


def test_an_arm_of_a_study_may_say_tiny_and_nothing_else(tmp_path: Path):
    trial = EpisodeTrial()
    suite = parse(trial.suite_settings, {"world": {"id": "wiki", "n": 1}}, where="[suite]")

    def check(model: Any) -> None:
        trial.check(suite, {"a": parse(trial.arm_settings, {"model": model}, where="a")}, tmp_path)

    if (WEIGHTS / "index.json").is_file():
        check("tiny")
    else:
        with pytest.raises(UserError, match='arm "a": model: this installation ships no weights of tiny'):
            check("tiny")
    with pytest.raises(UserError, match='arm "a": model: "tinny" is neither KIND:TEXT nor "oracle"'):
        check("tinny")


def test_files_are_those_of_the_habits_that_can_be_asked(folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    fold, every = {"kind": "tiny", "path": str(copy), "habit": "fold"}, f"tiny:{copy}"
    before = files_digest(fold, tmp_path), files_digest(every, tmp_path)
    (copy / "CARD.md").write_text("other words")
    weights = (copy / "append" / "model.safetensors").read_bytes()
    (copy / "append" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert files_digest(fold, tmp_path) == before[0]
    assert files_digest(every, tmp_path) != before[1]
    assert files_digest("oracle-player", tmp_path) is None
