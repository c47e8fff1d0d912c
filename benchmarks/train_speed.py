"""How fast small models train on a CPU: tokens per CPU second of forward, backward and step, hybrid against attention.

    python benchmarks/train_speed.py [--save] [--threads 1] [--repeats 5]

CPU seconds (all threads), the best of the repeats, AdamW in fp32, packed rows of whole contexts. The bound is what the
same machine's matrix product would need for 6 operations per parameter and token (embedding lookup left out).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from machine import machine, save
from torch.nn import functional

from fairtrial.nn.model import Model
from fairtrial.nn.ops.kda import backends
from fairtrial.nn.optim import clip, optimisers
from fairtrial.nn.presets import preset
from fairtrial.nn.schedule import OptimConfig

SHAPES = ((256, 1), (256, 8), (1024, 2), (2048, 1))
PATTERNS = ("KKKD", "KKKM", "FFFF")


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def matmul_rate() -> float:
    """FLOP per CPU second of a 1024 x 1024 x 1024 product in fp32."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    a @ b
    return 2 * 1024**3 / min(cpu_s(lambda: a @ b) for _ in range(10))


def measure(pattern: str, context: int, rows: int, repeats: int) -> dict[str, float]:
    config = preset("tiny", pattern=pattern, vocab=1024)
    model = Model(config, 0)
    parts = optimisers(model, OptimConfig())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab, (rows, context + 1), generator=generator)
    mode = "joint" if "D" in pattern else "sparse"
    best: dict[str, float] = {}
    for _ in range(repeats + 1):
        held: dict[str, torch.Tensor] = {}

        def forward(held: dict[str, torch.Tensor] = held) -> None:
            output = model(tokens[:, :-1], sparse=mode)
            held["loss"] = functional.cross_entropy(output.logits.flatten(0, 1), tokens[:, 1:].flatten())
            for kl in output.aux.indexer_kl.values():
                held["loss"] = held["loss"] + kl

        def step() -> None:
            clip(model.parameters(), 1.0)
            for optimiser in parts:
                optimiser.step()

        model.zero_grad(set_to_none=True)
        spent = {"forward": cpu_s(forward), "backward": cpu_s(held["loss"].backward), "step": cpu_s(step)}
        spent["all"] = sum(spent.values())
        best = {name: min(value, best.get(name, value)) for name, value in spent.items()}
    best["parameters"] = sum(p.numel() for p in model.parameters())
    best["active"] = config.parameters(active=True)
    return best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--save", action="store_true")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    rate = matmul_rate()
    lines = [
        f"training, {chosen.threads} thread(s), fp32, KDA back ends here: "
        + ", ".join(name for name, reason in backends().items() if reason is None),
        f"{machine()}; matrix product {rate / 1e9:.0f} GF per CPU second",
        "",
        "pattern  params   context x rows  tokens/CPU s  forward  backward    step   of bound   against FFFF",
    ]
    for context, rows in SHAPES:
        found = {pattern: measure(pattern, context, rows, chosen.repeats) for pattern in PATTERNS}
        for pattern, one in found.items():
            tokens = context * rows
            bound = 6 * one["active"] * tokens / rate
            lines.append(
                f"{pattern:7} {one['parameters'] / 1e6:6.2f} M  {context:7} x {rows:<4} {tokens / one['all']:12,.0f}"
                f"  {1e3 * one['forward']:5.0f} ms  {1e3 * one['backward']:5.0f} ms {1e3 * one['step']:5.0f} ms"
                f"  {bound / one['all']:8.0%}  {found['FFFF']['all'] / one['all']:9.2f}x"
            )
    text = "\n".join(lines)
    print(text)
    if chosen.save:
        print(save("train-speed", text))


if __name__ == "__main__":
    main()
