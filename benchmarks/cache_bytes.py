"""Decode cache of the layer patterns, measured beside the formula, and the time of one decoded token against context.

    python benchmarks/cache_bytes.py [--contexts 1024 4096 16384] [--save]

Four layers, hidden 256, 4 heads of 64 (MLA: latent 128 + 32, DSA: 64 keys, 4 indexer heads of 32), fp32, one sequence,
one thread, CPU time. The context is really read (prefill), the cache is really the model's. `x FFFF` compares with full
attention at the same context, `x first` with the same pattern at the first context. `exact` is the same token decoded
in an exact pass (bitwise equal to prefill), as a multiple of the plain one.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from machine import machine, save

from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.ops.kda import backends
from fairtrial.nn.presets import preset
from fairtrial.nn.state import State

PATTERNS = ["FFFF", "MMMM", "KKKM", "KKKD"]


def config(pattern: str) -> ModelConfig:
    return preset(
        "tiny", pattern=pattern, vocab=256, hidden=256, intermediate=512, heads=4, head_dim=64, kda_heads=4,
        kda_key_dim=64, kv_rank=128, rope_dim=32,
    )  # fmt: skip


def decode_us(model: Model, state: State, *, exact: bool, count: int) -> float:
    """Median CPU time of one token in microseconds, behind `state`."""
    seconds = []
    for index in range(count + 3):
        token = torch.tensor([[index % 256]])
        begin = time.process_time()
        out = model(token, state, exact=exact)
        seconds.append(time.process_time() - begin)
        assert out.state is not None
        state = out.state
    return 1e6 * statistics.median(seconds[3:])


@torch.inference_mode()
def measure(pattern: str, contexts: list[int], count: int) -> list[tuple[int, int, int, float, float]]:
    """(context, measured bytes, bytes by formula, us per token, us per token exact) for each context."""
    model = Model(config(pattern), seed=0).eval()
    rows = []
    for context in contexts:
        text = torch.randint(0, 256, (1, context), generator=torch.Generator().manual_seed(context))
        state = model(text, model.init_state(1)).state
        assert state is not None
        plain = decode_us(model, state, exact=False, count=count)
        exact = decode_us(model, state, exact=True, count=count)
        rows.append((context, state.nbytes, model.config.cache_bytes(context), plain, exact))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--tokens", type=int, default=32, help="decoded tokens per cell (the median counts)")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"{'pattern':8}{'context':>9}{'bytes':>13}{'formula':>13}{'x FFFF':>9}{'us/token':>11}{'x FFFF':>9}"
        f"{'x first':>9}{'exact':>8}"
    ]
    full: dict[int, tuple[int, float]] = {}
    for pattern in PATTERNS:
        first = 0.0
        for context, held, formula, plain, exact in measure(pattern, options.contexts, options.tokens):
            full.setdefault(context, (held, plain))
            first = first or plain
            lines.append(
                f"{pattern:8}{context:9,}{held:13,}{formula:13,}{held / full[context][0]:9.3f}{plain:11,.0f}"
                f"{plain / full[context][1]:9.3f}{plain / first:9.2f}{exact / plain:8.2f}"
            )
    reason = backends()["c"]
    lines += [
        "",
        f"KDA back end: {'c' if reason is None else f'torch ({reason})'}; {machine()}, torch {torch.__version__}",
    ]
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(save("cache-bytes", text))


if __name__ == "__main__":
    main()
