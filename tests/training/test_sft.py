"""Supervised training: it learns what the agent said and nothing else, from one file, in both families of models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("peft")

from fairtrial import Study  # noqa: E402
from fairtrial.agents.samples.writing import read_samples, write_samples  # noqa: E402
from fairtrial.app.cli import main  # noqa: E402
from fairtrial.core.clock import SystemClock  # noqa: E402
from fairtrial.core.config import parse  # noqa: E402
from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.model import Message, Request, Sampling  # noqa: E402
from fairtrial.models.opening import open_model  # noqa: E402
from fairtrial.nn import hub  # noqa: E402
from fairtrial.nn.config import ModelConfig  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402
from fairtrial.training import journal  # noqa: E402
from fairtrial.training.journal import Silent  # noqa: E402
from fairtrial.training.session import Session  # noqa: E402
from fairtrial.training.sft import weighted_loss  # noqa: E402
from fairtrial.training.sft_data import Packer, load_rows, pack, packs_in  # noqa: E402
from fairtrial.training.sft_launch import Launched, launch  # noqa: E402
from fairtrial.training.sft_learners import HubLearner, Learner, open_learner  # noqa: E402
from fairtrial.training.sft_rows import rows_of  # noqa: E402
from fairtrial.training.sft_settings import SftConfig, learner_settings  # noqa: E402
from fairtrial.training.sft_speakers import open_speaker  # noqa: E402
from fairtrial.training.sft_view import run_tokens, token_view  # noqa: E402

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASKED = {
    "What is two plus two?": ("Let me count.", "four", "The answer is four."),
    "Where is Paris?": ("On the map, maybe.", "in France", "The answer is in France, naïve as I am."),
    "Who jumps over the dog?": ("I should look it up.", "the quick fox", "The answer is the fox <|end|> really."),
}
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trajectory(question: str, *, name: str = "run", **more: Any) -> dict[str, Any]:
    thought, found, answer = ASKED[question]
    return {
        "id": f"{name}-{list(ASKED).index(question)}",
        "tools": [TOOL],
        "content": [
            {"class_": "text_observation", "content": question, "source": "user"},
            {"class_": "api_action", "function": "look", "kwargs": {"for": question[:9]}, "call_id": "c",
             "description": thought} | more,
            {"class_": "text_observation", "content": f"it says: {found}", "source": "environment", "call_id": "c"},
            {"class_": "message_action", "content": answer} | more,
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trajectory file, a native model and a Llama, both random."""
    base = tmp_path_factory.mktemp("sft")
    (base / "runs.jsonl").write_text("".join(json.dumps(trajectory(question)) + "\n" for question in ASKED))
    texts = [json.dumps(trajectory(question)) for question in ASKED]
    tokenizer = Tokenizer.train(texts, vocab_size=320)
    config = ModelConfig(
        vocab=tokenizer.vocab_size, hidden=32, layers=3, pattern="KFW", intermediate=64, heads=2, head_dim=16,
        kda_heads=2, kda_key_dim=16, kda_gate_rank=8, window=8, tied=True, init_std=0.25,
    )  # fmt: skip
    with torch.no_grad():
        hub.save(Model(config, 0), base / "native")
    tokenizer.save(base / "native" / "tokenizer.json")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    marks = ["<|im_start|>", "<|im_end|>"]
    inner.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=330, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
        ),
    )
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    words.chat_template = TEMPLATE
    llama = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=words.eos_token_id, bos_token_id=None,
        initializer_range=0.25, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(llama).save_pretrained(base / "llama")
    words.save_pretrained(base / "llama")
    torch.set_num_threads(1)
    return base


MODELS = {"native": "native:native", "llama": "hf:llama"}


def settings(model: str, **more: Any) -> SftConfig:
    base: dict[str, Any] = {
        "data": ["runs.jsonl"], "model": MODELS.get(model, model), "held_out": 0, "steps": 60,
        "optim": {"lr": 1e-2, "weight_decay": 0.0},
    }  # fmt: skip
    return parse(SftConfig, base | more, where="sft.toml")


def train(lab: Path, out: Path, config: SftConfig) -> Launched:
    out.mkdir(parents=True, exist_ok=True)
    return launch(config, Session(lab, out, "sft.toml", SystemClock(), Silent(), phase=lambda text: None))


def learner_of(lab: Path, config: SftConfig) -> Learner:
    return open_learner(config, learner_settings(config, "sft.toml"), lab)


def says(spec: Any, lab: Path, question: str) -> tuple[str, str, str]:
    """(text, arguments of its call, text after the result) as the model says them greedily."""

    async def main() -> tuple[str, str, str]:
        model = open_model(spec, lab)
        ask = Sampling(temperature=0, max_tokens=80)
        try:
            messages = [Message(role="user", content=question)]
            first = (await model.generate(Request(messages=tuple(messages), tools=(TOOL,), sampling=ask))).message
            call = first.tool_calls[0] if first.tool_calls else None
            if call is None:
                return first.content, "", ""
            result = Message(role="tool", content=f"it says: {ASKED[question][1]}", tool_call_id=call.id)
            messages += [first, result]
            last = (await model.generate(Request(messages=tuple(messages), tools=(TOOL,), sampling=ask))).message
            return first.content, call.arguments, last.content
        finally:
            await model.close()

    return asyncio.run(main())


def wanted(question: str) -> tuple[str, str, str]:
    return ASKED[question][0], json.dumps({"for": question[:9]}), ASKED[question][2]


@pytest.mark.parametrize("model", ["native", "llama"])
def test_a_model_says_what_it_was_taught(lab: Path, tmp_path: Path, model: str) -> None:
    done = train(lab, tmp_path / "out", settings(model, steps=50, optim={"lr": 2e-2}))
    assert done.ended.finished and done.ended.loss is not None and done.ended.loss < 0.02
    for question in ASKED:
        assert says(done.opens, lab, question) == wanted(question)


@pytest.mark.parametrize("model", ["native", "llama"])
def test_an_adapter_is_learned_beside_a_model_that_stays(lab: Path, tmp_path: Path, model: str) -> None:
    folder = lab / model
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    question = "Where is Paris?"
    (tmp_path / "one.jsonl").write_text(json.dumps(trajectory(question)) + "\n")
    config = settings(model, data=[str(tmp_path / "one.jsonl")], method="lora", lora={"rank": 16, "alpha": 64})
    done = train(lab, tmp_path / "out", config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    spec = {"kind": MODELS[model].partition(":")[0], "path": model, "adapter": str(done.product)}
    assert done.parameters < 60_000 and done.ended.loss is not None
    assert says(spec, lab, question) == wanted(question)
    assert says(MODELS[model], lab, question) != wanted(question)


def test_an_adapter_belongs_to_its_weights(lab: Path, tmp_path: Path) -> None:
    done = train(lab, tmp_path / "out", settings("native", steps=1, method="lora"))
    net = hub.load(lab / "native")
    with torch.no_grad():
        net.model.norm.weight.add_(1.0)
    hub.save(net, tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_bytes((lab / "native" / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="was trained on other weights"):
        open_model({"kind": "native", "path": str(tmp_path / "other"), "adapter": str(done.product)}, lab)
    with pytest.raises(UserError, match="no adapter of a native model"):
        open_model({"kind": "native", "path": str(lab / "native"), "adapter": str(tmp_path)}, lab)


@pytest.mark.parametrize("model", ["native", "llama"])
def test_what_the_agent_did_not_say_has_no_gradient_at_all(lab: Path, tmp_path: Path, model: str) -> None:
    config = settings(model, weights={"explain": 0.0, "act": 0.5})
    learner = learner_of(lab, config)
    rows = load_rows(config, lab, tmp_path, learner.speaker, learner.context).train
    whole = pack(rows)
    every = np.arange(len(whole.inputs))
    wide = type(whole)(whole.inputs, whole.borders, every, whole.inputs, np.ones(len(every), dtype=np.float32))
    logits = learner.logits(wide)
    logits.retain_grad()
    weighted_loss(logits[torch.from_numpy(whole.places)], whole, float(whole.weights.sum())).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert moved.nonzero()[:, 0].tolist() == whole.places.tolist()
    spelled = b"".join(learner.speaker.pieces(whole.targets.tolist())).decode()
    for thought, found, answer in ASKED.values():
        assert answer in spelled and thought not in spelled and found not in spelled.replace(answer, "")
    assert set(whole.weights.tolist()) == {0.5, 1.0}


@pytest.mark.parametrize("model", ["native", "llama"])
def test_a_packed_row_costs_what_its_samples_cost_alone(lab: Path, tmp_path: Path, model: str) -> None:
    config = settings(model)
    learner = learner_of(lab, config)
    learner.precision.forward.double()
    rows = load_rows(config, lab, tmp_path, learner.speaker, learner.context).train
    together = pack(rows)
    total = float(together.weights.sum())
    alone = sum(weighted_loss(learner.logits(one), one, total).item() for one in (pack([row]) for row in rows))
    assert weighted_loss(learner.logits(together), together, total).item() == pytest.approx(alone, abs=1e-6)
    if isinstance(learner, HubLearner):
        assert learner.packs is True


def test_a_model_that_sees_across_borders_gets_its_samples_one_by_one(lab: Path, tmp_path: Path) -> None:
    learner = learner_of(lab, settings("llama"))
    assert isinstance(learner, HubLearner)
    inner = learner.precision.forward.model.forward

    def leaky(**fields: Any) -> Any:
        positions = torch.arange(fields["input_ids"].shape[1])[None]
        return inner(**fields | {"position_ids": positions})

    learner.precision.forward.model.forward = leaky
    rows = load_rows(settings("llama"), lab, tmp_path, learner.speaker, learner.context).train
    apart = torch.cat([learner.logits(pack([row])) for row in rows])
    assert torch.allclose(learner.logits(pack(rows)), apart, atol=1e-5) and learner.packs is False


def test_accumulated_rows_make_the_step_of_one_row(lab: Path, tmp_path: Path) -> None:
    one = train(lab, tmp_path / "one", settings("native", steps=3))
    three = train(lab, tmp_path / "three", settings("native", steps=3, batch_tokens=1, accumulate=3))
    losses = [
        [row["loss"] for row in journal.read(tmp_path / name) if row["kind"] == "step"] for name in ("one", "three")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert one.ended.step == three.ended.step == 3


def test_rows_are_what_the_model_would_have_been_asked_and_said(lab: Path, tmp_path: Path) -> None:
    for model in ("native", "llama"):
        config = settings(model)
        learner = learner_of(lab, config)
        load_rows(config, lab, tmp_path / model, learner.speaker, None)
        for sample in read_samples(tmp_path / model / "samples" / "0.jsonl"):
            (row,) = rows_of(sample, learner.speaker, Counter())
            (prompt,) = learner.speaker.prompts(sample.messages[:1], sample.tools, [1])
            assert row.ids[: len(prompt)].tolist() == prompt and not row.weights[: len(prompt)].any()
            assert row.weights[len(prompt)] == 1.0 and row.weights[-1] == 1.0
            ends = {"<|end|>", "<|im_end|>"}
            assert learner.speaker.spelled(int(row.ids[-1])) in ends
            assert sum(learner.speaker.pieces([int(index)]) == [b""] for index in row.ids[row.weights > 0]) >= 2


def test_sampled_ids_are_learned_as_they_were_sampled_and_foreign_ones_are_not(lab: Path, tmp_path: Path) -> None:
    native, llama = (open_speaker(MODELS[name], lab) for name in ("native", "llama"))
    tokenizer = Tokenizer.load(lab / "native" / "tokenizer.json")
    (prompt,) = native.prompts([Message(role="user", content="Say it.")], (), [1])
    letters = [index for letter in "The answer." for index in tokenizer.encode_bytes(letter)]
    sampled = [*letters, tokenizer.special("<|end|>")]
    assert letters != tokenizer.encode_bytes("The answer.")
    row = {
        "id": "sampled",
        "content": [
            {"class_": "text_observation", "content": "Say it.", "source": "user"},
            {"class_": "message_action", "content": "The answer.", "model_call": 0},
        ],
        "model_calls": [{"model": "m", "prompt": {"append": prompt}, "completion_ids": sampled}],
    }
    (tmp_path / "sampled.jsonl").write_text(json.dumps(row) + "\n")
    config = settings("native", data=[str(tmp_path / "sampled.jsonl")])
    (mine,) = load_rows(config, lab, tmp_path / "a", native, None).train
    assert mine.ids.tolist() == prompt + sampled
    assert mine.weights.tolist() == [0.0] * len(prompt) + [1.0] * len(sampled)
    (theirs,) = load_rows(config, lab, tmp_path / "b", llama, None).train
    whole = "".join(llama.spelled(int(index)) for index in theirs.ids)
    assert whole == "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\nThe answer.<|im_end|>"


def test_the_view_shows_each_token_once_under_its_kind(lab: Path, tmp_path: Path) -> None:
    config = settings("native", weights={"act": 2.0})
    speaker = open_speaker(MODELS["native"], lab)
    load_rows(config, lab, tmp_path, speaker, None)
    sample = next(read_samples(tmp_path / "samples" / "0.jsonl"))
    lines = token_view(sample, speaker)
    kinds = [line.split()[1] for line in lines[1:]]
    assert kinds == ["context", "explain", "act", "context", "answer"]
    assert "<|user|>" in lines[1] and "two| plus".replace("|", "") in lines[1].replace("|", "")
    assert lines[3].split()[2] == "2" and "look" in lines[3].replace("|", "")
    assert lines[5].replace("|", "").endswith("The answer is four.<end>")
    spans = [line.split()[0].split("-") for line in lines[1:]]
    assert [int(end) + 1 for _, end in spans[:-1]] == [int(begin) for begin, _ in spans[1:]]
    whole = run_tokens(lab / "runs.jsonl", "run-0", MODELS["native"], lab, weights=config.weights, width=0)
    assert whole == lines
    with pytest.raises(UserError, match='holds no run run-x; did you mean "run-'):
        run_tokens(lab / "runs.jsonl", "run-x", MODELS["native"], lab)


def test_epochs_see_every_sample_once_in_another_order(lab: Path, tmp_path: Path) -> None:
    speaker = open_speaker(MODELS["native"], lab)
    rows = load_rows(settings("native"), lab, tmp_path, speaker, None).train
    assert packs_in(rows, 1, 0, 2) == 6 and packs_in(rows, 10_000, 0, 2) == 2
    packer = Packer(rows, 1, 0)
    drawn = [packer.draw().inputs.tobytes() for _ in range(12)]
    assert all(len(set(drawn[at : at + 3])) == 3 for at in range(0, 12, 3)) and packer.epochs == 4
    assert len({tuple(drawn[at : at + 3]) for at in range(0, 12, 3)}) > 1


def test_killed_it_ends_with_the_same_bits(lab: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "steps": 40, "save_every": 4, "batch_tokens": 200, "held_out": 0.34, "method": "lora", "accumulate": 2,
        "optim": {"kind": "muon", "lr": 1e-2},
    }  # fmt: skip
    given = [f"{key}={json.dumps(value)}" for key, value in more.items() if key != "optim"]
    given += ["optim.kind=muon", "optim.lr=0.01", "optim.weight_decay=0.1"]
    command = [
        sys.executable, "-m", "fairtrial.app.cli", "train", "sft", str(lab / "runs.jsonl"), "--quiet",
        "--model", f"native:{lab / 'native'}", "--out", "killed", *(part for one in given for part in ("--set", one)),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    train(lab, tmp_path / "whole", settings("native", **more))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        metrics = tmp_path / "killed" / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b'"kind":"step"') >= 6:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train(lab, tmp_path / "killed", settings("native", **more))
    for file in ("checkpoints/step-00000040/{}", "adapter/{}"):
        names = ("adapter.safetensors",) if "adapter" in file else ("model.safetensors", "optimiser.safetensors")
        for name in names:
            whole, killed = (tmp_path / each / file.format(name) for each in ("whole", "killed"))
            assert whole.read_bytes() == killed.read_bytes()
    steps = [row["step"] for row in journal.read(tmp_path / "killed") if row["kind"] == "step"]
    assert steps == list(range(1, 41))


def test_another_run_is_not_continued_by_mistake(lab: Path, tmp_path: Path) -> None:
    train(lab, tmp_path / "out", settings("native", steps=2))
    with pytest.raises(UserError, match="made with batch_tokens = 4096, now 99; set it back"):
        train(lab, tmp_path / "out", settings("native", steps=3, batch_tokens=99))
    (tmp_path / "fewer.jsonl").write_text(json.dumps(trajectory("Where is Paris?")) + "\n")
    with pytest.raises(UserError, match="the samples have changed since"):
        train(lab, tmp_path / "out", settings("native", steps=2, data=[str(tmp_path / "fewer.jsonl")]))


def test_bad_input_is_one_clear_line(lab: Path, tmp_path: Path) -> None:
    silent = trajectory("Where is Paris?", loss=False)
    (tmp_path / "silent.jsonl").write_text(json.dumps(silent) + "\n")
    with pytest.raises(UserError, match=r"silent.jsonl: no usable targets .*marked as not to be learned"):
        train(lab, tmp_path / "a", settings("native", data=[str(tmp_path / "silent.jsonl")]))
    with pytest.raises(UserError, match=r'sample run-0/1 has \d+ tokens, "llama" takes 40: .*too_long=drop'):
        train(lab, tmp_path / "b", settings("llama", context=40))
    with pytest.raises(UserError, match=r"no usable targets .*longer than 40 tokens"):
        train(lab, tmp_path / "c", settings("llama", context=40, too_long="drop"))
    with pytest.raises(UserError, match=r"only native:FOLDER and hf:FOLDER can be trained"):
        train(lab, tmp_path / "d", settings("scripted:x.toml"))
    with pytest.raises(UserError, match='no linear map is called "q_prj"; did you mean "q_proj"'):
        train(lab, tmp_path / "e", settings("native", method="lora", lora={"targets": ["q_prj"]}))
    with pytest.raises(UserError, match=r"step \d+: .*(the loss is|is not finite|has NaN|has infinite)"):
        train(lab, tmp_path / "f", settings("llama", optim={"lr": 1e30, "clip": 0.0}))


def test_what_is_refused_is_said_in_one_line_and_leaves_nothing(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "silent.jsonl").write_text(json.dumps(trajectory("Where is Paris?", loss=False)) + "\n")
    for model, more, said in (
        (lab / "native", (), "no usable targets to learn from (2 x marked as not to be learned"),
        (lab / "native", ("--set", "purposes=[]"), '"purposes"'),
        (tmp_path / "nope", (), "no such file; put the model's tokenizer beside its weights"),
    ):
        out = tmp_path / "runs" / "out"
        with pytest.raises(SystemExit) as ended:
            main(["train", "sft", str(tmp_path / "silent.jsonl"), "--model", f"native:{model}", "--out", str(out),
                  "--quiet", *more])  # fmt: skip
        complaint = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and len(complaint) == 1 and said in complaint[0], complaint
        assert not out.parent.exists()


def test_held_out_runs_are_scored_and_never_trained_on(lab: Path, tmp_path: Path) -> None:
    done = train(lab, tmp_path / "out", settings("native", steps=4, held_out=0.34, eval_every=2))
    found = [row for row in journal.read(tmp_path / "out") if row["kind"] == "held_out_runs"]
    assert [row["step"] for row in found] == [2, 4] and found[1]["loss"] < found[0]["loss"]
    assert done.rows == 2 and 0 <= done.ended.held["accuracy"] <= 1


def test_episodes_show_that_what_was_learned_is_of_use(lab: Path, tmp_path: Path) -> None:
    world = {"id": "wiki", "n": 2, "families": ["chain"], "style": "plain", "hops": 2, "pages": 24}
    study = {
        "title": "t", "question": "q", "kind": "episode", "seed": 1, "suite": {"world": world, "turns": 8},
        "arms": {"fold": {"model": "oracle", "policy": "fold", "control": True}, "append": {"model": "oracle"}},
    }  # fmt: skip
    Study.model_validate(study).run(tmp_path / "run")
    assert write_samples(tmp_path / "run", tmp_path / "texts.jsonl").kept_runs == 4
    texts = [message.content for one in read_samples(tmp_path / "texts.jsonl") for message in one.messages]
    tokenizer = Tokenizer.train(texts, vocab_size=600)
    config = ModelConfig(
        vocab=tokenizer.vocab_size, hidden=48, layers=2, pattern="KF", intermediate=96, heads=2, head_dim=24,
        kda_heads=2, kda_key_dim=24, kda_gate_rank=8, tied=True, init_std=0.1,
    )  # fmt: skip
    with torch.no_grad():
        hub.save(Model(config, 0), tmp_path / "m")
    tokenizer.save(tmp_path / "m" / "tokenizer.json")
    more: dict[str, Any] = {
        "data": [str(tmp_path / "run")], "arm": "append", "optim": {"lr": 1e-2, "weight_decay": 0.0},
        "practice": {"suite": {"world": world, "turns": 8, "sampling": {"temperature": 0, "max_tokens": 40}}},
    }  # fmt: skip
    before, after = (
        train(lab, tmp_path / str(steps), settings(f"native:{tmp_path / 'm'}", steps=steps, **more)).ended.practice
        for steps in (1, 36)
    )
    assert before["em"] == 0.0 and before["failed"] == {"format_limit": 2}
    assert after["em"] == 1.0 and after["failed"] == {} and after["episodes"] == 2
