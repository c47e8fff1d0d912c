"""Models of transformers behind the protocol: what comes out is what the model says, and each request is its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from byte_tokenizer import byte_tokenizer  # noqa: E402

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.activations import Edit, Site, activations  # noqa: E402
from fairtrial.models.hf.kind import HuggingFaceSettings  # noqa: E402
from fairtrial.models.hf.model import HuggingFaceModel  # noqa: E402
from fairtrial.models.model import ContextTooLongError, Message, Pair, Request, Sampling, UnsupportedError  # noqa: E402
from fairtrial.models.opening import check_model, open_model  # noqa: E402
from fairtrial.models.worker import QueueFullError  # noqa: E402

torch.set_num_threads(1)

TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools (answer <tool_call>...</tool_call>): {{ tools | tojson }}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny"
    texts = ["the user said hello to the assistant, naïve café", "system tools add numbers"]
    tokenizer = byte_tokenizer(TEMPLATE, texts, 330)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def opened(path, **settings):
    return open_model({"kind": "hf", "path": str(path), "device": "cpu", "threads": 1, **settings}, Path.cwd())


def ask(path, *requests, **settings):
    """Replies to requests that come at the same time."""

    async def main():
        model = opened(path, **settings)
        try:
            return await asyncio.gather(*(model.generate(request) for request in requests))
        finally:
            await model.close()

    return asyncio.run(main())


def test_greedy_is_what_transformers_generates(folder):
    (reply,) = ask(folder, Request(prompt="hello to the user", sampling=Sampling(temperature=0, max_tokens=24)))
    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    given = torch.tensor([list(reply.prompt_ids)])
    wanted = net.generate(given, max_new_tokens=24, do_sample=False)[0, given.shape[1] :].tolist()
    assert list(reply.completion_ids) == wanted
    assert reply.finish == ("stop" if wanted[-1] == net.config.eos_token_id else "length")
    with torch.no_grad():
        logp = torch.log_softmax(net(torch.tensor([[*reply.prompt_ids, *wanted]])).logits[0].float(), -1)
    first = len(reply.prompt_ids) - 1
    own = [float(logp[first + step, token]) for step, token in enumerate(wanted)]
    assert reply.logprobs == pytest.approx(own, abs=1e-4), "at temperature 0 they are those of temperature 1"


SMALL = {"vocab_size": 0, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": None,
         "bos_token_id": None, "pad_token_id": None, "initializer_range": 0.2}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
FAMILIES = {
    "learned positions": ("GPT2", {"n_positions": 64}),
    "sliding window": ("Gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 6}),
    "alibi": ("Bloom", {}),
    "recurrent": ("Lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "batch"])
def test_every_kind_of_cache_gives_what_transformers_generates(folder, family, exact):
    name, more = FAMILIES[family]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, "vocab_size": len(tokenizer), **more})
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(config).eval()
    prompts = [tuple(range(5, 5 + size)) for size in (3, 9, 1, 14)]
    wanted = []
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        out = net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8 + number, do_sample=False)
        wanted.append(out[0, len(prompt) :].tolist())

    async def main():
        model = HuggingFaceModel(net, tokenizer, HuggingFaceSettings(path="-", threads=1, exact=exact), name="m")
        model.ends = frozenset()
        requests = [
            Request(prompt_ids=prompt, sampling=Sampling(temperature=0, max_tokens=8 + number))
            for number, prompt in enumerate(prompts)
        ]
        replies = await asyncio.gather(*(model.generate(request) for request in requests))
        await model.close()
        return replies

    assert [list(reply.completion_ids) for reply in asyncio.run(main())] == wanted


def test_logprobs_are_those_of_what_was_sampled_from(folder):
    sampling = Sampling(temperature=0.7, top_k=5, seed=3, max_tokens=12)
    (reply,) = ask(folder, Request(prompt="hello", sampling=sampling))
    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[*reply.prompt_ids, *reply.completion_ids]])
    with torch.no_grad():
        logits = net(ids).logits[0, len(reply.prompt_ids) - 1 : -1].float() / 0.7
    kept = logits.topk(5, dim=-1)
    for row, (token, logprob) in enumerate(zip(reply.completion_ids, reply.logprobs, strict=True)):
        place = (kept.indices[row] == token).nonzero()
        assert len(place) == 1
        wanted = torch.log_softmax(kept.values[row], -1)[place[0, 0]]
        assert abs(float(wanted) - logprob) < 1e-4


def test_a_seed_gives_the_same_draws_and_another_seed_others(folder):
    def request(seed):
        return Request(prompt="the user said", sampling=Sampling(seed=seed, max_tokens=20))

    one, two, other = ask(folder, request(1), request(1), request(2))
    assert one.completion_ids == two.completion_ids
    assert one.logprobs == two.logprobs
    assert one.completion_ids != other.completion_ids
    (again,) = ask(folder, request(1))
    assert again.completion_ids == one.completion_ids
    (free,) = ask(folder, Request(prompt="the user said", sampling=Sampling(max_tokens=20)))
    (same,) = ask(folder, request(free.sampling["seed"]))
    assert same.completion_ids == free.completion_ids


def many():
    prompts = ["a", "hello to the user said the assistant", "numbers", "system tools add", "café naïve", "the " * 30]
    return [
        Request(prompt=text, sampling=Sampling(seed=i, max_tokens=6 + 5 * i, temperature=0.8 + 0.1 * i))
        for i, text in enumerate(prompts)
    ]


def test_a_reply_does_not_depend_on_the_company_bitwise(folder):
    alone = [ask(folder, request)[0] for request in many()]
    together = ask(folder, *many(), max_batch=4)
    for one, other in zip(alone, together, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.logprobs == other.logprobs


def test_a_padded_batch_rounds_differently_by_at_most_1e_4_nats_and_mixes_nothing(folder):
    alone = [ask(folder, request)[0] for request in many()]
    together = ask(folder, *many(), max_batch=4, exact=False)
    for one, other in zip(alone, together, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_stop_texts_end_a_reply_and_deltas_join_to_it(folder):
    (free,) = ask(folder, Request(prompt="hello", sampling=Sampling(seed=5, max_tokens=40)))
    stop = free.text[6:9]
    assert len(stop) == 3
    deltas = []

    async def main():
        model = opened(folder)
        request = Request(prompt="hello", sampling=Sampling(seed=5, max_tokens=40, stop=(stop,)))
        reply = await model.generate(request, on_delta=deltas.append)
        await model.close()
        return reply

    reply = asyncio.run(main())
    assert reply.finish == "stop"
    assert reply.text == free.text[: free.text.index(stop)]
    assert "".join(d.text for d in deltas) == reply.text
    assert tuple(i for d in deltas for i in d.token_ids) == reply.completion_ids
    assert tuple(x for d in deltas for x in d.logprobs) == reply.logprobs
    assert reply.completion_ids == free.completion_ids[: len(reply.completion_ids)]
    assert b"".join(free.token_bytes).decode("utf-8", "replace") == free.text


def test_turn_n_is_a_prefix_of_turn_n_plus_1(folder):
    async def main():
        model = opened(folder)
        messages = [Message(role="system", content="be naïve"), Message(role="user", content="hello <|im_end|> there")]
        earlier = ()
        for turn in range(4):
            sampling = Sampling(seed=turn, max_tokens=8 + turn)
            reply = await model.generate(Request(messages=tuple(messages), sampling=sampling))
            assert reply.sampling["verbatim"] is True
            assert reply.prompt_ids[: len(earlier)] == earlier
            earlier = (*reply.prompt_ids, *reply.completion_ids)
            messages += [reply.message, Message(role="user", content=f"again {turn}")]
        assert list(reply.prompt_ids).count(model.tokenizer.eos_token_id) <= 2 + 3 * 2  # the user's is text
        await model.close()

    asyncio.run(main())


def test_tools_are_called_in_the_template_s_own_format(folder):
    """A grammar makes a random model write a call; the reply says so, and the next prompt holds it verbatim."""
    call = r'hi <tool_call>\{"name": "add", "arguments": \{"a": [0-9]\}\}</tool_call>'
    deltas = []

    async def main():
        model = opened(folder)
        ask_ = Message(role="user", content="add")
        request = Request(messages=(ask_,), tools=(TOOL,), sampling=Sampling(regex=call, seed=1, max_tokens=200))
        reply = await model.generate(request, on_delta=deltas.append)
        result = Message(role="tool", content="3", tool_call_id=reply.message.tool_calls[0].id)
        after = await model.generate(
            Request(messages=(ask_, reply.message, result), tools=(TOOL,), sampling=Sampling(max_tokens=2))
        )
        await model.close()
        return reply, after

    reply, after = asyncio.run(main())
    assert reply.finish == "tool_calls"
    assert reply.text == "hi "
    assert reply.message.tool_calls[0].name == "add"
    assert json.loads(reply.message.tool_calls[0].arguments)["a"] in range(10)
    assert "".join(d.text for d in deltas) == "hi "
    whole = (*reply.prompt_ids, *reply.completion_ids)
    assert after.prompt_ids[: len(whole)] == whole


def test_a_json_schema_is_kept(folder):
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    (reply,) = ask(folder, Request(prompt="x", sampling=Sampling(json_schema=schema, seed=2, max_tokens=200)))
    assert reply.finish == "stop"
    assert json.loads(reply.text)["n"] in (True, False)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "batch"])
def test_a_cancelled_request_frees_its_slot_at_once(folder, exact):
    async def main():
        model = opened(folder, max_batch=1, exact=exact)
        started = asyncio.Event()
        long = Request(prompt="hello", sampling=Sampling(seed=1, max_tokens=200, regex="[a-z]{190}"))
        first = asyncio.create_task(model.generate(long, on_delta=lambda _: started.set()))
        await started.wait()
        second = asyncio.create_task(model.generate(Request(prompt="a", sampling=Sampling(max_tokens=2, seed=1))))
        await asyncio.sleep(0)
        first.cancel()
        reply = await asyncio.wait_for(second, 20)
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(reply.completion_ids) <= 2
        assert model.engine.running == model.engine.waiting == 0
        await model.close()
        with pytest.raises(RuntimeError, match="closed"):
            await model.generate(Request(prompt="a"))

    asyncio.run(main())


def test_one_request_too_many_is_refused(folder):
    async def main():
        model = opened(folder, max_batch=1, max_waiting=2)
        long = Request(prompt="hello", sampling=Sampling(seed=1, max_tokens=200, regex="[a-z]{190}"))
        hung = [asyncio.create_task(model.generate(long)) for _ in range(4)]
        done, _ = await asyncio.wait(hung, timeout=20, return_when=asyncio.FIRST_EXCEPTION)
        (refused,) = done
        assert isinstance(refused.exception(), QueueFullError)
        assert "max_waiting" in str(refused.exception()) and "2 wait" in str(refused.exception())
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)
        await model.close()

    asyncio.run(main())


def test_a_request_that_cannot_be_met_fails_alone(folder):
    bad = Request(prompt="x", sampling=Sampling(regex="a(", max_tokens=4))
    good = Request(prompt="hello", sampling=Sampling(seed=1, max_tokens=30))
    (wanted,) = ask(folder, good)

    async def main():
        model = opened(folder)
        out = await asyncio.gather(model.generate(good), model.generate(bad), return_exceptions=True)
        await model.close()
        return out

    reply, error = asyncio.run(main())
    assert reply.completion_ids == wanted.completion_ids
    assert isinstance(error, UserError)
    assert "sampling.regex" in str(error)


def test_closing_fails_what_runs_and_does_not_hang(folder):
    async def main():
        model = opened(folder)
        started = asyncio.Event()
        long = Request(prompt="hello", sampling=Sampling(seed=1, max_tokens=200, regex="[a-z]{190}"))
        task = asyncio.create_task(model.generate(long, on_delta=lambda _: started.set()))
        await started.wait()
        await model.close()
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(task, 20)

    asyncio.run(main())


def test_context_ends_a_reply_and_refuses_a_longer_prompt(folder):
    (reply,) = ask(folder, Request(prompt="hello", sampling=Sampling(seed=1, regex="[a-z]{300}")), context=20)
    assert len(reply.prompt_ids) + len(reply.completion_ids) == 20
    assert reply.finish == "length"
    with pytest.raises(ContextTooLongError) as caught:
        ask(folder, Request(prompt="z" * 5000))
    assert caught.value.limit == 256
    assert caught.value.tokens > 4000


def test_an_adapter_changes_the_answer_and_has_its_name(folder, tmp_path):
    peft = pytest.importorskip("peft")
    net = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "lora")
    request = Request(prompt="hello to", sampling=Sampling(temperature=0, max_tokens=12))
    (plain,) = ask(folder, request)
    (changed,) = ask(folder, request, adapter=str(tmp_path / "lora"))
    ids = torch.tensor([list(changed.prompt_ids)])
    wanted = adapted.eval().generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    assert list(changed.completion_ids) == wanted
    assert changed.completion_ids != plain.completion_ids
    assert changed.model == "tiny+lora"


def test_scores_are_the_sum_of_log_probabilities(folder):
    async def main():
        model = opened(folder)
        scores = await model.score([Pair("hello", " to the user"), Pair("the", " assistant")])
        await model.close()
        return scores

    scores = asyncio.run(main())
    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    context, whole = tokenizer("hello")["input_ids"], tokenizer("hello to the user")["input_ids"]
    with torch.no_grad():
        logp = torch.log_softmax(net(torch.tensor([whole])).logits[0], -1)
    wanted = sum(float(logp[i - 1, whole[i]]) for i in range(len(context), len(whole)))
    assert scores[0].logprob == pytest.approx(wanted, abs=1e-4)


def test_hooks_reach_a_model_while_it_answers(folder):
    async def main():
        model = opened(folder)
        request = Request(prompt="hello", sampling=Sampling(temperature=0, max_tokens=6))
        plain = await model.generate(request)
        value = torch.randn(32, generator=torch.Generator().manual_seed(0))
        with activations(model.net, [Site(0)], [Edit(Site(0), None, value, scale=30.0)]) as taken:
            edited = await model.generate(request)
        after = await model.generate(request)
        await model.close()
        return plain, edited, after, taken.positions(Site(0))[0].tolist()

    plain, edited, after, positions = asyncio.run(main())
    assert edited.completion_ids != plain.completion_ids
    assert after.completion_ids == plain.completion_ids
    assert positions == list(range(len(edited.prompt_ids) + len(edited.completion_ids) - 1))


def one_line(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copied(folder, target, *, without=()):
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in without:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_folders_that_cannot_be_opened_end_in_one_line(folder, tmp_path):
    assert "no such folder" in one_line(lambda: opened(tmp_path / "nothing"))
    assert "m: path: /typo: no such folder" in one_line(lambda: check_model("hf:typo", Path("/"), where="m"))
    check_model("hf:owner/name", Path("/"))  # the hub may have it
    assert "config.json: no such file" in one_line(
        lambda: opened(copied(folder, tmp_path / "a", without=["config.json"]))
    )
    bare = copied(folder, tmp_path / "b", without=["model.safetensors"])
    assert "weights are missing" in one_line(lambda: opened(bare))
    (bare / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    assert "pickled" in one_line(lambda: opened(bare))
    assert "tokenizer" in one_line(
        lambda: opened(copied(folder, tmp_path / "c", without=["tokenizer.json", "tokenizer_config.json"]))
    )
    broken = copied(folder, tmp_path / "d")
    (broken / "model.safetensors").write_bytes(b"\x00" * 64)
    assert str(broken) in one_line(lambda: opened(broken))
    assert "adapter_config.json" in one_line(lambda: opened(folder, adapter=str(tmp_path)))
    assert 'unknown key "pth"' in one_line(lambda: opened(folder, pth=1))
    assert "is no device" in one_line(lambda: opened(folder, device="quantum"))


def test_tensors_that_are_missing_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    part = copied(folder, tmp_path / "part")
    tensors = load_file(part / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, part / "model.safetensors", {"format": "pt"})
    assert "1 tensors are missing" in one_line(lambda: opened(part))


def test_code_in_a_folder_is_never_run(folder, tmp_path):
    strange = copied(folder, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (strange / "config.json").write_text(json.dumps(config))
    (strange / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    one_line(lambda: opened(strange))
    assert not (tmp_path / "ran").exists()


def test_messages_without_a_template_and_tools_without_support_say_what_to_do(folder, tmp_path):
    plain = copied(folder, tmp_path / "plain", without=["chat_template.jinja"])
    message = Message(role="user", content="hi")
    said = one_line(lambda: ask(plain, Request(messages=(message,))))
    assert "no chat template" in said
    assert "give a prompt" in said
    (plain / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(UnsupportedError, match="knows no tools"):
        ask(plain, Request(messages=(message,), tools=(TOOL,)))
    (plain / "chat_template.jinja").write_text("{{ raise_exception('system first') }}")
    assert "system first" in one_line(lambda: ask(plain, Request(messages=(message,))))
    assert "prompt_ids: 9999 is no token" in one_line(lambda: ask(plain, Request(prompt_ids=(9999,))))
