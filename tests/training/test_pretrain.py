"""Pre-training: it learns, it stops before it breaks a good checkpoint, and it continues bit for bit."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.clock import SystemClock  # noqa: E402
from fairtrial.core.config import parse  # noqa: E402
from fairtrial.core.errors import StorageError, UserError  # noqa: E402
from fairtrial.nn import checkpoint as ck  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.training import journal, losses  # noqa: E402
from fairtrial.training.continuing import Plan, make_plan  # noqa: E402
from fairtrial.training.corpus import ByteTokenizer  # noqa: E402
from fairtrial.training.data import join  # noqa: E402
from fairtrial.training.precision import LossScale, Precision  # noqa: E402
from fairtrial.training.pretrain import Trained, Trainer  # noqa: E402
from fairtrial.training.settings import Stage, TrainConfig  # noqa: E402

MODEL: dict[str, Any] = {
    "hidden": 32, "layers": 2, "pattern": "KD", "intermediate": 48, "heads": 2, "kda_heads": 2, "kda_key_dim": 8,
    "kda_gate_rank": 8, "kv_rank": 16, "nope_dim": 8, "rope_dim": 4, "mla_value_dim": 8, "index_heads": 2,
    "index_dim": 8, "index_topk": 4, "tied": True,
}  # fmt: skip
TEXT = "".join(f"{n} plus {n} is {2 * n}.\n" for n in range(150))


def settings(**more: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "steps": 8, "tokenizer": "bytes", "model": MODEL, "sources": {"sums": {"files": ["sums.txt"]}}, "context": 32,
        "batch_tokens": 96, "schedule": {"warmup": 2, "decay": 2}, "eval_every": 4, "save_every": 3, "eval_tokens": 200,
        "optim": {"lr": 3e-3},
    }  # fmt: skip
    return parse(TrainConfig, base | more, where="run.toml")


def plan_of(folder: Path, config: TrainConfig, out: Path) -> Plan:
    (folder / "sums.txt").write_text(TEXT)
    (folder / "other.txt").write_text("other words entirely. " * 40)
    return make_plan(config, folder, out, ByteTokenizer(), "run.toml")


def run(folder: Path, config: TrainConfig, name: str, until: int | None = None, start: Path | None = None) -> Trained:
    out = folder / name
    plan = plan_of(folder, config, out)
    trainer = Trainer(plan, Model(plan.model, config.seed), out, SystemClock(), stop=lambda: trainer.step == until)
    return trainer.run(start)


def same(one: Path, other: Path) -> bool:
    return all(
        (one / f).read_bytes() == (other / f).read_bytes() for f in ("model.safetensors", "optimiser.safetensors")
    )


TWO_STAGES = {
    "sources": {"sums": {"files": ["sums.txt"]}, "other": {"files": ["other.txt"], "documents": "file"}},
    "stages": [
        {"name": "warm", "mixture": {"sums": 1.0}, "train": "indexer", "lr": 1e-2},
        {"name": "joint", "start": 3, "mixture": {"sums": 0.6, "other": 0.4}},
    ],
}


@pytest.mark.parametrize(
    "more",
    [
        {"accumulate": 2, **TWO_STAGES},
        {"precision": "fp16", "optim": {"kind": "muon", "lr": 3e-3}},
        {"precision": "bf16", "model": MODEL | {"mtp_steps": 2, "experts": 4, "experts_per_token": 2}},
    ],
    ids=["stages", "fp16-muon", "bf16-moe-mtp"],
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, more: dict[str, Any]) -> None:
    config = settings(**more)
    whole = run(tmp_path, config, "whole")
    assert whole.finished and whole.step == 8
    for step in (2, 3, 5):
        halted = run(tmp_path, config, "halted", until=step)
        assert not halted.finished and halted.step == step
    ended = run(tmp_path, config, "halted")
    assert ended.finished and same(whole.checkpoint, ended.checkpoint) and ended.held == whole.held
    rows = [
        {k: v for k, v in row.items() if k not in ("tokens_per_s", "eta_s")} for row in journal.read(tmp_path / "whole")
    ]
    again = [
        {k: v for k, v in row.items() if k not in ("tokens_per_s", "eta_s")}
        for row in journal.read(tmp_path / "halted")
    ]
    assert rows == again


def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "sums.txt").write_text(TEXT)
    fields = "\n".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in MODEL.items()
    )
    (tmp_path / "run.toml").write_text(
        'steps = 40\ntokenizer = "bytes"\ncontext = 32\nbatch_tokens = 96\nsave_every = 4\neval_every = 20\n'
        'schedule = {warmup = 2, decay = 8}\n[sources.sums]\nfiles = ["sums.txt"]\n[model]\n' + fields.replace("'", '"')
    )

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fairtrial.app.cli", "train", "run.toml", "--out", name, "--quiet"]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL)

    whole = start("whole")
    for least in (5, 18):
        process = start("killed")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            metrics = tmp_path / "killed" / "metrics.jsonl"
            if metrics.exists() and metrics.read_bytes().count(b'"kind":"step"') >= least:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert whole.wait() == 0 and start("killed").wait() == 0
    assert same(tmp_path / "whole/checkpoints/step-00000040", tmp_path / "killed/checkpoints/step-00000040")
    steps = [row["step"] for row in journal.read(tmp_path / "killed") if row["kind"] == "step"]
    assert steps == list(range(1, 41))


def test_it_learns_and_reports_bits_per_byte_of_text_it_never_saw(tmp_path: Path) -> None:
    config = settings(steps=60, batch_tokens=256, save_every=60, eval_every=60, schedule={"warmup": 5, "decay": 20})
    ended = run(tmp_path, config, "out")
    rows = journal.read(tmp_path / "out")
    first = next(row["loss"] for row in rows if row["kind"] == "step")
    assert first == pytest.approx(math.log(258), abs=0.2) and ended.loss is not None and ended.loss < 2.2
    plan = plan_of(tmp_path, config, tmp_path / "out")
    held = plan.sources["sums"].held
    assert held is not None
    model = Model(plan.model, 9)
    ck.load_module(model, ck.load(ended.checkpoint).groups["model"], "x")
    model.eval()
    nats, size = 0.0, 0
    tokens = held.tokens.astype(np.int64)
    last = len(tokens) - 1
    assert len(held.borders) == 2 and 32 < last < 200
    with torch.no_grad():
        for at in range(0, last, 32):
            piece = torch.from_numpy(tokens[at : min(at + 32, last) + 1])
            logits = model(piece[None, :-1]).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, piece[1:], reduction="sum"))
            size += int((piece[1:] < 256).sum())
    assert ended.held["sums"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    assert ended.held["sums"]["bits_per_byte"] < 4


def test_a_packed_row_costs_what_its_documents_cost_alone(tmp_path: Path) -> None:
    config = settings(index_weight=0.0)
    plan = plan_of(tmp_path, config, tmp_path / "out")
    model, stage = Model(plan.model, 1).double(), Stage(name="s", mixture={"sums": 1.0})
    pieces = [np.array([256, *text, 257]) for text in (b"one two", b"three", b"something longer here")]

    def cost(*some: np.ndarray) -> float:
        batch = join(some)
        output = model(torch.from_numpy(batch.inputs)[None], cu_seqlens=torch.from_numpy(batch.borders))
        found = losses.objective(output, torch.from_numpy(batch.targets), batch.borders.tolist(), config, stage)
        return found.total.item() * len(batch.inputs)

    assert cost(*pieces) == pytest.approx(sum(cost(piece) for piece in pieces), rel=1e-6)


def test_the_warm_up_moves_the_indexer_and_not_one_bit_of_anything_else(tmp_path: Path) -> None:
    config = settings(steps=5, stages=[TWO_STAGES["stages"][0]])
    ended = run(tmp_path, config, "out")
    plan = plan_of(tmp_path, config, tmp_path / "out")
    after = ck.load(ended.checkpoint).groups
    before = ck.module_tensors(Model(plan.model, config.seed))
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after["model"][name])}
    assert moved and all("indexer" in name for name in moved)
    assert all("indexer" in name for name in after["optimiser"])
    kl = [row["kl"] for row in journal.read(tmp_path / "out") if row["kind"] == "step"]
    assert kl[-1] < kl[0]


def test_leaks_across_the_walls_are_caught() -> None:
    stage = Stage(name="warm", mixture={"s": 1.0}, train="indexer")
    net = torch.nn.ModuleDict({"indexer": torch.nn.Linear(2, 1), "other": torch.nn.Linear(2, 1)})
    x = torch.ones(3, 2)
    kl, lm = net["indexer"](x).square().mean(), net["other"](x).square().mean()
    assert losses.audit_walls(losses.Losses(lm + kl, lm, None, kl), net.named_parameters()) == {
        "indexer": 2,
        "others": 2,
    }
    with pytest.raises(AssertionError, match=r"language-model loss reaches indexer\.weight"):
        losses.audit_walls(losses.Losses(lm, lm + kl, None, kl), net.named_parameters())
    with pytest.raises(AssertionError, match=r"indexer's KL reaches other\.weight"):
        losses.audit_walls(losses.Losses(lm, lm, None, kl + lm), net.named_parameters())
    (kl + lm).backward()
    with pytest.raises(AssertionError, match=r"frozen parameter other\.weight received a gradient"):
        losses.audit_frozen(net, losses.trained_names(net, stage), stage)
    with pytest.raises(UserError, match="the model has none"):
        losses.trained_names(net["other"], stage)


def test_targets_further_ahead_end_with_their_piece() -> None:
    targets = torch.arange(10, 17)
    found = losses.shifted(targets, [0, 3, 4, 7], 2).tolist()
    assert found == [12, -100, -100, -100, 16, -100, -100]


def test_divergence_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    good = run(tmp_path, settings(save_every=1), "out", until=3)
    before = (good.checkpoint / "model.safetensors").read_bytes()
    plan = plan_of(tmp_path, settings(save_every=1), tmp_path / "out")
    trainer = Trainer(plan, Model(plan.model, 0), tmp_path / "out", SystemClock())
    for optimiser in trainer.updates.optimisers:
        for group in optimiser.param_groups:
            group["peak"] = 1e38
    with pytest.raises(UserError, match=r"step \d: .*(NaN|infinite|not finite|the loss is)") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert ck.latest(tmp_path / "out" / "checkpoints") == good.checkpoint
    assert (good.checkpoint / "model.safetensors").read_bytes() == before


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, settings(), tmp_path / "out")
    model = Model(plan.model, 0)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[0, 0] = math.nan
    with pytest.raises(UserError, match=r"step 1: weight model\.layers\.1\.self_attn\.o_proj\.weight has NaN"):
        Trainer(plan, model, tmp_path / "out", SystemClock()).run()
    assert ck.latest(tmp_path / "out" / "checkpoints") is None


def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    config = settings()
    whole = run(tmp_path, config, "whole")
    first = run(tmp_path, config, "out", until=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(StorageError, match=r"checkpoints: cannot be written: the file size limit is reached"):
            run(tmp_path, config, "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert ck.latest(tmp_path / "out" / "checkpoints") == first.checkpoint
    assert same(run(tmp_path, config, "out").checkpoint, whole.checkpoint)


def test_a_run_is_extended_and_branched_where_the_schedule_had_not_felt_the_end(tmp_path: Path) -> None:
    long = run(tmp_path, settings(steps=12), "long")
    run(tmp_path, settings(steps=8), "short")
    with pytest.raises(UserError, match=r"from step 7 on .* other learning rates .*--from \S+step-00000006"):
        run(tmp_path, settings(steps=12), "short")
    pinned = tmp_path / "short" / "checkpoints" / "step-00000006"
    branch = run(tmp_path, settings(steps=12), "branch", start=pinned)
    assert same(branch.checkpoint, long.checkpoint)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seed": 1}, "made with seed = 0, now 1"),
        ({"model": MODEL | {"layers": 4}}, "made with model.layers = 2, now 4"),
        ({"held_out": 0.2}, 'text of source "sums" has changed|made with held_out'),
        ({"steps": 2, "schedule": {"warmup": 2}}, "has made 3 steps already"),
    ],
)
def test_another_run_is_not_continued_by_accident(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    run(tmp_path, settings(), "out", until=3)
    with pytest.raises(UserError, match=message):
        run(tmp_path, settings(**more), "out")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"pattern": "KX"}, r'\[model\].*unknown letter "X" at position 2'),
        ({"kda_value_heads": 3}, r"kda_value_heads 3 is not a multiple of kda_heads 2"),
        ({"pattern": "KF", "kv_heads": 3}, r"heads 2 is not a multiple of kv_heads 3"),
        ({"vocab": 100}, r'"model\.vocab" is 100, but the tokenizer has 258 ids'),
        ({"widht": 3}, r'unknown key "widht"'),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_field(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, settings(model=MODEL | model), tmp_path / "out")


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(UserError, match=f'"device" is "{device}", which this machine cannot use'):
            run(tmp_path, settings(device=device), "out")


def test_the_loss_scale_halves_on_overflow_doubles_after_good_steps_and_gives_up_at_one() -> None:
    scale = LossScale(4.0, patience=2)
    scale.overflowed(1, "w")
    scale.passed()
    assert scale.value == 2.0
    scale.passed()
    assert scale.value == 4.0 and scale.skipped == 1
    scale.overflowed(2, "w")
    scale.overflowed(3, "w")
    with pytest.raises(UserError, match="step 4: the fp16 gradient of w overflows even without a loss scale"):
        scale.overflowed(4, "w")


def test_an_overflowing_fp16_step_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    config = settings(steps=2, precision="fp16", save_every=1, schedule={})
    plan = plan_of(tmp_path, config, tmp_path / "out")
    trainer = Trainer(plan, Model(plan.model, 0), tmp_path / "out", SystemClock(), stop=lambda: True)
    trainer.precision.scale.value = 2.0**40
    before = {name: p.clone() for name, p in trainer.precision.master.named_parameters()}
    ended = trainer.run()
    assert ended.skipped == 1 and trainer.precision.scale.value == 2.0**39
    assert all(torch.equal(p, before[name]) for name, p in trainer.precision.master.named_parameters())
    row = next(row for row in journal.read(tmp_path / "out") if row["kind"] == "step")
    assert row["skipped"] == 1 and row["grad_norm"] is None


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_copy_has_the_chosen_type_and_the_master_stays_fp32(kind: Any, dtype: torch.dtype) -> None:
    net = torch.nn.Linear(4, 4)
    both = Precision(net, kind)
    both.scale.value = 8.0 if kind == "fp16" else 1.0
    assert {p.dtype for p in both.forward.parameters()} == {dtype}
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        both.backward(both.forward(x.to(dtype)).float().square().mean() / 2)
    exact = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
    for parameter, grad in zip(net.parameters(), exact, strict=True):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert torch.allclose(parameter.grad, grad, rtol=0.05, atol=0.02)
    with torch.no_grad():
        net.weight.add_(0.5)
    both.updated()
    assert torch.equal(both.forward.weight, net.weight.to(dtype))
    with pytest.raises(UserError, match=r"master weights are fp32; weight is torch\.float16"):
        Precision(torch.nn.Linear(2, 2).half(), kind)
