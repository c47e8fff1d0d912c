"""A native model as its users see it: replies, seeds, batches, stops, streaming, grammar, errors, cancellation."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.model import ContextTooLongError, Delta, Message, Pair, Reply, Request, Sampling  # noqa: E402
from fairtrial.models.native.model import NativeModel  # noqa: E402
from fairtrial.models.opening import open_model  # noqa: E402
from fairtrial.models.worker import QueueFullError  # noqa: E402

T = TypeVar("T")
Maker = Callable[..., Path]


def with_model(folder: Path, use: Callable[[NativeModel], Awaitable[T]], **settings: Any) -> T:
    async def main() -> T:
        model = open_model({"kind": "native", "path": str(folder), **settings}, folder)
        assert isinstance(model, NativeModel)
        try:
            return await use(model)
        finally:
            await model.close()

    return asyncio.run(main())


def some_requests(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    out: list[Request] = []
    for _ in range(count):
        ids = tuple(rng.randrange(10, 290) for _ in range(rng.choice([1, 3, 17, 60])))
        sampling = Sampling(
            max_tokens=rng.choice([1, 5, 20]),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_p=rng.choice([1.0, 0.8]),
            top_k=rng.choice([0, 5]),
            seed=rng.randrange(1000),
        )
        out.append(Request(prompt_ids=ids, sampling=sampling))
    return out


async def crowded(model: NativeModel, requests: list[Request], seed: int) -> list[Reply]:
    """All at once, starting at random moments, among others that are hung up on."""
    rng = random.Random(seed)
    noise = [asyncio.create_task(model.generate(one)) for one in some_requests(6, seed + 1)]
    tasks: list[asyncio.Task[Reply]] = []
    for request in requests:
        tasks.append(asyncio.create_task(model.generate(request)))
        await asyncio.sleep(rng.choice([0, 0, 0.003]))
        if noise and rng.random() < 0.6:
            noise.pop(rng.randrange(len(noise))).cancel()
    replies = await asyncio.gather(*tasks)
    await asyncio.gather(*noise, return_exceptions=True)
    return replies


@pytest.mark.parametrize("pattern", ["KF", "KM", "WG", "KD"])
def test_in_exact_mode_a_reply_has_the_same_bits_alone_and_in_any_crowd(
    tmp_path: Path, native_maker: Maker, pattern: str
):
    if "c" not in _usable_kernels():
        pytest.skip("without the C kernel KDA is not bitwise")
    folder, requests = native_maker(tmp_path / "m", pattern), some_requests(10, 5)

    async def alone(model: NativeModel) -> list[Reply]:
        return [await model.generate(request) for request in requests]

    wanted = with_model(folder, alone, exact=True, prefix_mib=0, max_batch=1)
    for seed, slots in ((1, 4), (2, 16)):
        got = with_model(folder, lambda model, seed=seed: crowded(model, requests, seed), exact=True, max_batch=slots)
        assert [one.completion_ids for one in got] == [one.completion_ids for one in wanted]
        assert [one.logprobs for one in got] == [one.logprobs for one in wanted]


def _usable_kernels() -> list[str]:
    from fairtrial.nn.ops.kda import backends

    return [name for name, reason in backends().items() if reason is None]


def test_in_the_fast_mode_a_crowd_changes_a_log_probability_by_rounding_only(native_folder: Path):
    requests = some_requests(12, 8)

    async def alone(model: NativeModel) -> list[Reply]:
        return [await model.generate(request) for request in requests]

    wanted = with_model(native_folder, alone)
    got = with_model(native_folder, lambda model: crowded(model, requests, 3))
    for one, other in zip(wanted, got, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_log_probabilities_are_those_of_the_model(native_folder: Path):
    async def use(model: NativeModel) -> None:
        request = Request(prompt="The answer", sampling=Sampling(max_tokens=12, seed=3))
        reply = await model.generate(request)
        assert reply.prompt_ids is not None and reply.completion_ids is not None and reply.logprobs is not None
        ids = [*reply.prompt_ids, *reply.completion_ids]
        with torch.no_grad():
            logp = torch.log_softmax(model.net(torch.tensor([ids])).logits[0], -1)
        for step, (token, logprob) in enumerate(zip(reply.completion_ids, reply.logprobs, strict=True)):
            assert logprob == pytest.approx(float(logp[len(reply.prompt_ids) - 1 + step, token]), abs=1e-4)
        greedy = await model.generate(Request(prompt="The answer", sampling=Sampling(max_tokens=3, temperature=0)))
        assert greedy.completion_ids is not None
        assert greedy.completion_ids[0] == int(logp[len(reply.prompt_ids) - 1].argmax())
        assert greedy.logprobs is not None, "at temperature 0 they are those of temperature 1"
        assert greedy.logprobs[0] == pytest.approx(float(logp[len(reply.prompt_ids) - 1].max()), abs=1e-4)

    with_model(native_folder, use)


def test_a_seed_repeats_a_reply_and_a_reply_names_the_seed_it_drew(native_folder: Path):
    async def use(model: NativeModel) -> None:
        request = Request(prompt="fox", sampling=Sampling(max_tokens=20))
        first, second = await asyncio.gather(model.generate(request), model.generate(request))
        assert first.completion_ids != second.completion_ids
        again = request.model_copy(update={"sampling": Sampling(max_tokens=20, seed=first.sampling["seed"])})
        assert (await model.generate(again)).completion_ids == first.completion_ids

    with_model(native_folder, use)


def test_a_stop_text_ends_the_reply_wherever_its_tokens_begin_and_is_never_shown(native_folder: Path):
    async def use(model: NativeModel) -> None:
        for seed in range(12):
            plain = await model.generate(Request(prompt="dog", sampling=Sampling(max_tokens=40, seed=seed)))
            text = plain.text
            if len(text) < 8:
                continue
            at = random.Random(seed).randrange(2, len(text) - 3)
            stop = text[at : at + 3]
            sampling = Sampling(max_tokens=40, seed=seed, stop=("never in there", stop))
            deltas: list[Delta] = []
            reply = await model.generate(Request(prompt="dog", sampling=sampling), on_delta=deltas.append)
            assert reply.finish == "stop"
            assert reply.text == text[: text.index(stop)]
            assert "".join(delta.text for delta in deltas) == reply.text
            assert reply.completion_ids is not None and plain.completion_ids is not None
            assert plain.completion_ids[: len(reply.completion_ids)] == reply.completion_ids
            assert stop in model.tokenizer.decode(reply.completion_ids)

    with_model(native_folder, use)


def test_a_stream_shows_whole_characters_and_adds_up_to_the_reply(native_folder: Path):
    async def use(model: NativeModel) -> None:
        for seed in range(8):
            deltas: list[Delta] = []
            # Byte tokens of two- and three-byte characters, held apart by the grammar.
            sampling = Sampling(max_tokens=60, seed=seed, regex="[äöü日本語🙂]{4,9}")
            reply = await model.generate(Request(prompt="語", sampling=sampling), on_delta=deltas.append)
            assert "".join(delta.text for delta in deltas) == reply.text
            if reply.finish == "stop":
                assert "\ufffd" not in "".join(delta.text for delta in deltas)
                assert re.fullmatch("[äöü日本語🙂]{4,9}", reply.text)
            assert sum((delta.token_ids for delta in deltas), ()) == reply.completion_ids
            assert sum((delta.logprobs for delta in deltas), ()) == reply.logprobs
            assert sum((delta.token_bytes or () for delta in deltas), ()) == reply.token_bytes
            assert b"".join(reply.token_bytes or ()).decode("utf-8", "replace") == reply.text

    with_model(native_folder, use)


def test_a_grammar_holds_for_every_seed(native_folder: Path):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }

    async def use(model: NativeModel) -> None:
        asked = [
            model.generate(Request(prompt="json", sampling=Sampling(max_tokens=300, seed=seed, json_schema=schema)))
            for seed in range(12)
        ]
        complete = 0
        for reply in await asyncio.gather(*asked):
            if reply.finish == "length":  # white space may go on for ever
                continue
            value = json.loads(reply.text)
            assert 0 <= value["a"] <= 99 and value["b"] in ("x", "y")
            complete += 1
        assert complete >= 6
        reply = await model.generate(Request(prompt="x", sampling=Sampling(temperature=0, regex="[0-9]{3}-[ab]")))
        assert re.fullmatch("[0-9]{3}-[ab]", reply.text)
        for wrong in (Sampling(json_schema={"type": "nope"}), Sampling(regex="(")):
            with pytest.raises(UserError, match=r"^sampling\.(json_schema|regex): [^\n]*$"):
                await model.generate(Request(prompt="x", sampling=wrong))

    with_model(native_folder, use)


def test_a_cancelled_request_frees_its_slot(native_folder: Path):
    async def use(model: NativeModel) -> None:
        endless = Request(prompt="a", sampling=Sampling(regex="[a-z]{100000}"))
        hung = [asyncio.create_task(model.generate(endless)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert model.engine.running == 1
        for task in hung:
            task.cancel()
        reply = await asyncio.wait_for(model.generate(Request(prompt="b", sampling=Sampling(max_tokens=4))), 20)
        assert reply.completion_ids
        assert model.engine.running == 0

    with_model(native_folder, use, max_batch=1)


def test_one_request_too_many_is_refused_and_names_the_limit(native_folder: Path):
    async def use(model: NativeModel) -> None:
        endless = Request(prompt="a", sampling=Sampling(regex="[a-z]{100000}"))
        hung = [asyncio.create_task(model.generate(endless)) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(
            QueueFullError, match=r"^2 requests are answered \(max_batch\) and 3 wait.*max_waiting[^\n]*$"
        ) as refused:
            await model.generate(endless)
        assert refused.value.retryable and refused.value.cause == "rate_limit"
        for task in hung[:2]:
            task.cancel()
        await asyncio.sleep(0.05)
        short = asyncio.create_task(model.generate(Request(prompt="b", sampling=Sampling(max_tokens=4))))
        await asyncio.sleep(0)
        for task in hung:
            task.cancel()
        assert (await short).completion_ids, "a place that came free is given again"

    with_model(native_folder, use, max_batch=2, max_waiting=3)


def test_one_bad_request_does_not_touch_its_neighbours(native_folder: Path):
    async def use(model: NativeModel) -> None:
        good = Request(prompt="good", sampling=Sampling(max_tokens=30, seed=1))
        wanted = (await model.generate(good)).completion_ids

        def explode(delta: Delta) -> None:
            raise RuntimeError("a consumer that fails")

        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        replies = await asyncio.gather(
            *(model.generate(good) for _ in range(4)),
            model.generate(Request(prompt="x" * 9000)),
            model.generate(good, on_delta=explode),
            return_exceptions=True,
        )
        assert [one.completion_ids for one in replies[:4] if isinstance(one, Reply)] == [wanted] * 4
        assert isinstance(replies[4], ContextTooLongError)

    with_model(native_folder, use)


def test_an_event_loop_that_ends_in_the_middle_leaves_the_engine_to_others(native_folder: Path):
    model = open_model(f"native:{native_folder}", native_folder)

    async def hang_up() -> None:
        endless = Request(prompt="a", sampling=Sampling(regex="[a-z]{100000}"))
        task = asyncio.create_task(model.generate(endless, on_delta=lambda delta: None))
        await asyncio.sleep(0.05)
        assert not task.done()

    async def ask() -> Reply:
        return await asyncio.wait_for(model.generate(Request(prompt="b", sampling=Sampling(max_tokens=4))), 20)

    asyncio.run(hang_up())
    assert asyncio.run(ask()).completion_ids
    asyncio.run(model.close())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(ask())


def test_the_context_is_kept_to(native_folder: Path):
    async def use(model: NativeModel) -> None:
        with pytest.raises(ContextTooLongError) as caught:
            await model.generate(Request(prompt_ids=tuple(range(20, 60))))
        assert (caught.value.tokens, caught.value.limit) == (40, 40)
        reply = await model.generate(Request(prompt_ids=tuple(range(20, 57)), sampling=Sampling(regex="[a-z]{90}")))
        assert reply.finish == "length" and reply.usage.output_tokens == 3
        with pytest.raises(UserError, match=r"prompt_ids: 100000 is no token"):
            await model.generate(Request(prompt_ids=(100000,)))

    with_model(native_folder, use, context=40)


def test_a_long_prompt_is_read_while_others_decode(native_folder: Path):
    async def use(model: NativeModel) -> None:
        order: list[str] = []

        async def ask(name: str, request: Request) -> None:
            await model.generate(request)
            order.append(name)

        long = Request(prompt_ids=(20,) * 5_000, sampling=Sampling(max_tokens=1))
        short = Request(prompt="hi", sampling=Sampling(max_tokens=5, regex="[a-z]{9}"))
        tasks = [asyncio.create_task(ask("short", short)), asyncio.create_task(ask("long", long))]
        await asyncio.gather(*tasks)
        assert order == ["short", "long"]

    with_model(native_folder, use, context=6_000)


def test_a_second_turn_reads_only_what_is_new(native_folder: Path):
    async def use(model: NativeModel) -> list[Reply]:
        first = (
            Message(role="system", content="Answer in one line, whatever is asked."),
            Message(role="user", content="hi"),
        )
        one = await model.generate(Request(messages=first, sampling=Sampling(max_tokens=24, seed=4)))
        more = (*first, one.message, Message(role="user", content="and then?"))
        two = await model.generate(Request(messages=more, sampling=Sampling(max_tokens=24, seed=5)))
        other = (first[0], Message(role="user", content="another conversation"))
        three = await model.generate(Request(messages=other, sampling=Sampling(max_tokens=24, seed=6)))
        same = await model.generate(Request(messages=other, sampling=Sampling(max_tokens=24, seed=7)))
        return [one, two, three, same]

    if "c" not in _usable_kernels():
        pytest.skip("without the C kernel KDA is not bitwise")
    kept = with_model(native_folder, use, exact=True)
    fresh = with_model(native_folder, use, exact=True, prefix_mib=0)
    assert [reply.completion_ids for reply in kept] == [reply.completion_ids for reply in fresh]
    assert [reply.logprobs for reply in kept] == [reply.logprobs for reply in fresh]
    one, two, three, same = kept
    assert one.prompt_ids and one.completion_ids and two.prompt_ids
    assert two.prompt_ids[: len(one.prompt_ids) + len(one.completion_ids)] == one.prompt_ids + one.completion_ids
    assert two.usage.cached_tokens == len(one.prompt_ids) + len(one.completion_ids) - 1
    assert 16 <= three.usage.cached_tokens < len(three.prompt_ids or ())  # the system text
    assert same.usage.cached_tokens == len(same.prompt_ids or ()) - 1
    assert [reply.usage.cached_tokens for reply in fresh] == [0] * 4


def test_work_with_the_model_happens_on_one_thread_beside_the_event_loop(native_folder: Path):
    async def use(model: NativeModel) -> None:
        names = {await model.run(lambda: threading.current_thread().name) for _ in range(3)}
        assert len(names) == 1 and threading.current_thread().name not in names
        with pytest.raises(ZeroDivisionError):
            await model.run(lambda: 1 // 0)
        (score,) = await model.score([Pair("The quick", " brown fox")])
        assert score.logprob < 0 and score.characters == 10

    with_model(native_folder, use)


def test_changed_weights_change_replies_and_forget_prefixes(native_folder: Path):
    async def use(model: NativeModel) -> None:
        request = Request(
            prompt="a prompt that is long enough to be kept, surely", sampling=Sampling(temperature=0, max_tokens=8)
        )
        before = await model.generate(request)
        assert (await model.generate(request)).usage.cached_tokens > 0

        def change() -> None:
            with torch.no_grad():
                for parameter in model.net.parameters():
                    parameter.mul_(-1.3)
            model.changed("step-2")

        await model.run(change)
        after = await model.generate(request)
        assert after.weights_version == "step-2" != before.weights_version
        assert after.usage.cached_tokens == 0
        assert after.completion_ids != before.completion_ids

    with_model(native_folder, use)


def test_damaged_weights_fail_a_request_and_leave_the_engine_alive(native_folder: Path):
    async def use(model: NativeModel) -> None:
        saved = model.net.model.norm.weight.detach().clone()

        def set_norm(value: torch.Tensor) -> None:
            with torch.no_grad():
                model.net.model.norm.weight.copy_(value)
            model.changed("x")

        await model.run(lambda: set_norm(saved * math.nan))
        with pytest.raises(ValueError, match="not finite"):
            await model.generate(Request(prompt="x", sampling=Sampling(max_tokens=3)))
        await model.run(lambda: set_norm(saved))
        assert (await model.generate(Request(prompt="x", sampling=Sampling(max_tokens=3)))).completion_ids

    with_model(native_folder, use)


def test_a_folder_that_is_no_model_is_named_in_one_line(native_folder: Path, tmp_path: Path, native_maker: Maker):
    from safetensors.torch import load_file, save_file

    def problem(folder: Path, **settings: Any) -> str:
        with pytest.raises(UserError) as caught:
            open_model({"kind": "native", "path": str(folder), **settings}, tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in problem(tmp_path / "absent")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        folder = tmp_path / f"without-{name}"
        folder.mkdir()
        for path in native_folder.iterdir():
            if path.name != name:
                (folder / path.name).write_bytes(path.read_bytes())
        assert (name if name != "model.safetensors" else "safetensors") in problem(folder)
    whole = native_maker(tmp_path / "whole")
    tensors = load_file(whole / "model.safetensors")
    name = "model.layers.0.mlp.gate_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int32)}, whole / "model.safetensors")
    assert f"{name} holds I32" in problem(whole), "rounded weights are not taken for weights"
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_bytes((native_folder / "config.json").read_bytes())
    assert f"its model is native:{run}/model" in problem(run), "what a user of fairtrial train tries first"
    assert "threads" in problem(native_folder, exact=True, threads=2)
    assert 'unknown key "max_bach"; did you mean "max_batch"?' in problem(native_folder, max_bach=2)
    big = native_maker(tmp_path / "big")
    from fairtrial.nn.tokenizer import Tokenizer

    Tokenizer.train(["some words and more words, again and again words"] * 3, vocab_size=400).save(
        big / "tokenizer.json"
    )
    (big / "tokenizer.json").write_text((big / "tokenizer.json").read_text().replace("<|call|>", "<|coll|>"))
    assert "<|call|>" in problem(big) or "ids" in problem(big)
