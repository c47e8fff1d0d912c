"""What a mixer's state can do without training (probes), and what a KKKD model learns in 400 steps, as tables.

usage: python benchmarks/mixer_probes.py [--save] [--seeds 2]

The probes are exact to rounding and take seconds; the trained model takes a few minutes a seed. One thread.
"""

from __future__ import annotations

import argparse

import torch
from machine import machine, save

from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.training.fitting import Fit, Logits, accuracy, answer_loss, fit, split_batch, tensors
from fairtrial.training.mixer_probes import (
    DELTA,
    HEBBIAN,
    LETTERS,
    SOFTMAX,
    overwrite,
    retain_and_forget,
    retrieval,
    stream,
)
from fairtrial.training.synthetic import SyntheticTask


def probe_lines() -> list[str]:
    """Overwrite, retain-and-forget, one decay for two channels, and retrieval against stored pairs."""
    lines = ["Probes without training: squared error, 0 is right", ""]
    lines.append(f"{'mixer':<36}{'overwrite':>11}{'keep + lose':>13}")
    for mixer in (LETTERS["K"], LETTERS["G"], LETTERS["N"], DELTA, HEBBIAN, SOFTMAX):
        lines.append(f"{mixer.title:<36}{overwrite(mixer):>11.3f}{retain_and_forget(mixer):>13.3f}")
    lines += ["", "hold one value and follow another, Hebbian writes: error under the best gate"]
    lines.append(f"{'length':<10}{'channel gate':>14}{'scalar gate':>14}{'no gate':>10}")
    for length in (16, 64, 256):
        kinds = (stream("channel", length=length), stream("scalar", length=length), stream("none", length=length))
        lines.append(f"{length:<10}{kinds[0]:>14.3f}{kinds[1]:>14.3f}{kinds[2]:>10.2f}")
    lines += ["", "retrieval error against stored pairs, random keys of width 32"]
    lines.append(f"{'pairs':<10}{'Hebbian':>10}{'delta':>10}{'delta, decay 0.97':>20}{'(pairs-1)/32':>15}")
    for pairs in (4, 8, 16, 32, 64):
        kinds = (retrieval(HEBBIAN, pairs), retrieval(DELTA, pairs), retrieval(DELTA, pairs, decay=0.97))
        lines.append(f"{pairs:<10}{kinds[0]:>10.3f}{kinds[1]:>10.3f}{kinds[2]:>20.3f}{(pairs - 1) / 32:>15.3f}")
    return lines


REFERENCE = SyntheticTask(task="mqar", pairs=16, length=65, vocab=64)
STEPS, BATCH, RATE = 400, 32, 1e-3
HYBRID = ModelConfig(
    vocab=64, hidden=192, layers=4, pattern="KKKD", intermediate=512, init_std=0.06, kda_heads=3, kda_key_dim=64,
    heads=3, kv_rank=96, index_topk=65,
)  # fmt: skip


def learned_lines(seeds: int) -> list[str]:
    """A KKKD model of 1-5 M parameters on MQAR with 16 pairs in 65 tokens, as in the reference: 400 steps of 32."""
    lines = [
        f"KKKD, {HYBRID.parameters():,} parameters, MQAR 16 pairs in 65 tokens, {STEPS} steps of {BATCH}, lr {RATE:g}",
        f"(k = {HYBRID.index_topk}: the D layer sees every key; what fewer keys cost is recipes/dsa.toml)",
        "",
        f"{'seed':<8}{'accuracy':>10}{'CPU s':>8}{'tokens per CPU s':>18}   validation accuracy during training",
    ]
    for seed in range(1, seeds + 1):
        model = Model(HYBRID, seed)

        def logits(tokens: torch.Tensor, model: Model = model) -> torch.Tensor:
            return model(tokens).logits

        def loss_at(step: int, seed: int = seed, logits: Logits = logits) -> tuple[torch.Tensor, int]:
            tokens, targets = tensors(split_batch(REFERENCE, seed, "train", step, BATCH))
            return answer_loss(logits(tokens), targets), tokens.numel()

        def validate(seed: int = seed, logits: Logits = logits) -> float:
            return accuracy(logits, split_batch(REFERENCE, seed, "validation", 0, 64))

        run = fit(model, loss_at, validate, Fit(STEPS, RATE, 8), None)
        while True:
            try:
                next(run)
            except StopIteration as end:
                done = end.value
                break
        reached = accuracy(logits, split_batch(REFERENCE, seed, "test", 0, 256))
        curve = " ".join(f"{value:.2f}" for _, _, value in done.curve)
        lines.append(f"{seed:<8}{reached:>10.3f}{done.cpu_s:>8.0f}{done.tokens / done.cpu_s:>18,.0f}   {curve}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--seeds", type=int, default=2, help="of the trained model; 0: probes only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = probe_lines()
    if options.seeds:
        lines += ["", *learned_lines(options.seeds)]
    text = "\n".join([*lines, "", f"torch {torch.__version__}; {machine()}"])
    print(text)
    if options.save:
        print(f"saved: {save('mixer-probes', text)}")


if __name__ == "__main__":
    main()
