"""Decoding beside transformers' `generate` on the same weights: CPU per token, by batch size, and against the machine.

usage: python benchmarks/decode_speed.py [--save] [--batches 1 8 32] [--tokens 64]

Small models with equal weights on both sides, of about 1 and 4 million parameters: full rotary attention (a Llama for
transformers) and Kimi Linear's hybrid (KKKM). Greedy, one thread, random prompts of 16 tokens; both sides must give the
same tokens, up to ties within rounding. "ours" is the engine as users run it, with its worker thread; reading the
prompts is part of it, as it is part of generate. CPU time of the
process, best of several, alternating. The bound is the larger of two: every weight read once per step at this machine's
bandwidth, and the products' arithmetic at the speed of one large product.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import machine, save

from fairtrial.models.native.engine import Engine, Job
from fairtrial.models.native.sampling import Draw
from fairtrial.nn import hub
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer

PROMPT = 16
SHAPES = {
    "1M": {"vocab": 2048, "hidden": 128, "layers": 4, "intermediate": 352, "init_std": 0.15},
    "4M": {"vocab": 4096, "hidden": 256, "layers": 4, "intermediate": 704, "init_std": 0.1},
}


@dataclass
class Side:
    """CPU milliseconds per token and sequence."""

    ours: float
    theirs: float
    same: float
    """Share of equal tokens."""


def cpu(function: Callable[[], object]) -> tuple[float, object]:
    before = time.process_time()
    result = function()
    return time.process_time() - before, result


def llama(heads: int, shape: dict[str, Any]) -> tuple[Model, torch.nn.Module]:
    """Pattern F is a Llama: the same names, the same layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = ModelConfig(pattern="F", heads=heads, kv_heads=heads, head_dim=64, **shape)
    ours = Model(config).eval()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab, hidden_size=config.hidden, intermediate_size=config.intermediate,
            num_hidden_layers=config.layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=64,
            rms_norm_eps=config.norm_eps, rope_theta=config.rope_theta, max_position_embeddings=8192,
            tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def kimi(heads: int, shape: dict[str, Any]) -> tuple[Model, torch.nn.Module]:
    """KKKM as transformers' own class for Kimi Linear."""
    from transformers import AutoModelForCausalLM

    config = ModelConfig(
        pattern="KKKM", heads=heads, kda_heads=heads, kda_key_dim=64, kda_gate_rank=64, kv_rank=128, nope_dim=64,
        rope_dim=32, mla_value_dim=64, experts=2, dense_layers=4, mla_rope="none", **shape,
    )  # fmt: skip
    ours = Model(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        hub.save(ours, Path(folder) / "model")
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
    return ours, theirs


def ours_once(engine: Engine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    async def all_of_them() -> list[list[int]]:
        jobs = [Job(prompt, Draw(0.0, 1.0, 0, 0), tokens, end=-1) for prompt in prompts]
        await asyncio.gather(*(engine.submit(job) for job in jobs))
        return [job.ids for job in jobs]

    return asyncio.run(all_of_them())


def theirs_once(model: torch.nn.Module, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    ids = torch.tensor(prompts)
    everything = torch.ones_like(ids)  # without it, generate takes every 0 of a prompt for padding
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=everything, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return out[:, PROMPT:].tolist()


def compare(ours: Model, theirs: torch.nn.Module, batch: int, tokens: int, budget: float) -> Side:
    g = torch.Generator().manual_seed(batch)
    theirs.generation_config.eos_token_id = None  # no token ends a reply, on either side
    tokenizer = Tokenizer.train(["one text is enough here"], vocab_size=300)
    # No prefixes are kept: every repetition reads its prompts.
    engine = Engine(ours, tokenizer, slots=batch, prefix_bytes=0)
    engine._unknown = None
    best, spent, rounds, same = [float("inf")] * 2, 0.0, 0, 0.0
    while rounds < 3 or spent < budget:
        prompts = torch.randint(0, ours.config.vocab, (batch, PROMPT), generator=g).tolist()
        took_ours, mine = cpu(partial(ours_once, engine, prompts, tokens))
        took_theirs, other = cpu(partial(theirs_once, theirs, prompts, tokens))
        best = [min(best[0], took_ours), min(best[1], took_theirs)]
        same = sum(a == b for x, y in zip(mine, other, strict=True) for a, b in zip(x, y, strict=True))
        same /= batch * tokens
        spent, rounds = spent + took_ours + took_theirs, rounds + 1
    asyncio.run(engine.close())
    return Side(best[0] * 1e3 / (batch * tokens), best[1] * 1e3 / (batch * tokens), same)


def measured_bandwidth() -> float:
    """Bytes per CPU second of a matrix-vector product that fits no cache."""
    big, x = torch.randn(16384, 8192), torch.randn(8192)
    return max(big.nbytes / cpu(lambda: big @ x)[0] for _ in range(5))


def measured_speed() -> float:
    """Multiplications and additions per CPU second of a large product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return max(2 * 1024**3 / cpu(lambda: a @ b)[0] for _ in range(8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU seconds for each row, at least three rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import transformers

    transformers.logging.set_verbosity_error()
    bandwidth, speed = measured_bandwidth(), measured_speed()
    lines = [
        f"CPU ms per token and sequence: prompts of {PROMPT}, {options.tokens} new tokens, greedy, fp32, 1 thread",
        f"transformers {transformers.__version__}; measured: {bandwidth / 1e9:.1f} GB/s, {speed / 1e9:.0f} GF/s",
        "",
        f"{'model':<10}{'batch':>6}{'ours':>9}{'theirs':>9}{'ratio':>8}"
        f"{'tokens/s':>10}{'bound':>9}{'of bound':>10}{'equal':>8}",
    ]
    print("\n".join(lines), flush=True)
    missed: list[str] = []
    sides = [(f"{name} {size}", build, size) for size in SHAPES for name, build in (("llama", llama), ("kimi", kimi))]
    for name, build, size in sides:
        ours, theirs = build(SHAPES[size]["hidden"] // 64, SHAPES[size])
        active = ours.config.parameters(active=True)
        for batch in options.batches:
            side = compare(ours, theirs, batch, options.tokens, options.seconds)
            bound = max(4 * active / bandwidth / batch, 2 * active / speed) * 1e3
            ratio = side.theirs / side.ours
            if batch in (1, 32) and ratio < 2:
                missed.append(f"{name} at {batch}")
            lines.append(
                f"{name:<10}{batch:>6}{side.ours:>9.3f}{side.theirs:>9.3f}{ratio:>7.1f}x{1e3 / side.ours:>10,.0f}"
                f"{bound:>9.4f}{bound / side.ours:>9.0%}{side.same:>8.1%}"
            )
            print(lines[-1], flush=True)
    lines += ["", f"target 2x at batch 1 and 32: {'MISSED: ' + ', '.join(missed) if missed else 'met'}"]
    lines.append(f"torch {torch.__version__}; {machine()}")
    print("\n".join(lines[-3:]))
    if options.save:
        print(f"saved: {save('decode-speed', chr(10).join(lines))}")


if __name__ == "__main__":
    main()
