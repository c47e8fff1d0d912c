"""Kimi Delta Attention on a CPU: the recurrence, transformers' fallback, our torch form, our C kernel and causal SDPA.

    python benchmarks/kda_speed.py [--quick] [--threads 1] [--save]

Process CPU time, the least of several runs, fp32, one thread unless told otherwise, inputs like those of an
initialised model. The peer is what transformers runs on a CPU (`chunk_kimi_delta_attention` of its Kimi-Linear model);
SDPA is torch's causal attention of the same sizes, the mixer that KDA replaces. A cell is left out ("-") where it would
take too long by the figure for half its length, or (the peer) where one of its pairwise tensors [T, 64, H, K] is over
1 GB.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import machine, save
from torch.nn import functional

from fairtrial.nn.ops import kda_c
from fairtrial.nn.ops.kda import kda, l2norm

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
SIZES = ((4, 64), (8, 128))
CELL_S = 12.0
"""The longest run worth waiting for, in seconds of CPU."""

Inputs = tuple[torch.Tensor, ...]


def inputs(length: int, heads: int, dim: int) -> Inputs:
    rng = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    q, k = l2norm(normal(1, length, heads, dim)), l2norm(normal(1, length, heads, dim))
    rate = 1 + 15 * torch.rand(heads, 1, generator=rng)
    g = -rate * functional.softplus(0.5 * normal(1, length, heads, dim) - 4)
    return q, k, normal(1, length, heads, dim), g, torch.sigmoid(normal(1, length, heads))


def transformers_fallback() -> Callable[..., Any]:
    """The torch function itself, also where its decorator would find a GPU kernel."""
    from transformers.models.kimi_linear import modeling_kimi_linear

    found = modeling_kimi_linear.chunk_kimi_delta_attention
    return getattr(found, "__wrapped__", found)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)


def contenders() -> dict[str, Callable[..., torch.Tensor]]:
    peer = transformers_fallback()
    return {
        "recurrence": lambda *x: kda(*x, backend="recurrent")[0],
        "transformers": lambda *x: peer(*x)[0],
        "ours torch": lambda *x: kda(*x, backend="chunk")[0],
        "ours C": lambda *x: kda(*x, backend="c")[0],
        "SDPA": sdpa,
    }


def cost(run: Callable[[], object]) -> float:
    """CPU seconds of one call: the least of 3 to 9, of 1 where it takes seconds."""
    times: list[float] = []
    while len(times) < 9 and (sum(times) < 1.0 or len(times) < 3) and sum(times) < 4.0:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def forward(function: Callable[..., torch.Tensor], tensors: Inputs) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return function(*tensors)

    return run


def both(function: Callable[..., torch.Tensor], tensors: Inputs) -> Callable[[], object]:
    leaves = [x.clone().requires_grad_() for x in tensors]
    weight = torch.randn_like(tensors[2])

    def run() -> object:
        return torch.autograd.grad(function(*leaves), leaves, weight, allow_unused=True)

    return run


def table(kind: str, heads: int, dim: int, lengths: tuple[int, ...]) -> list[str]:
    functions = contenders()
    measure = forward if kind == "forward" else both
    last: dict[str, float] = {}
    lines = [f"{kind}, H = {heads}, d = {dim}: ms of CPU"]
    head = "".join(f"{name:>14}" for name in functions)
    lines.append(f"{'T':>6}{head} | C over transformers  over SDPA  over torch  us/token")
    for length in lengths:
        tensors = inputs(length, heads, dim)
        row: dict[str, float] = {}
        for name, function in functions.items():
            growth = 4 if name == "SDPA" else 2
            too_large = name == "transformers" and length * 64 * heads * dim * 4 > 1 << 30
            if (length > lengths[0] and name not in last) or growth * last.get(name, 0.0) > CELL_S or too_large:
                last.pop(name, None)
                continue
            row[name] = last[name] = cost(measure(function, tensors))
        cells = "".join(f"{1e3 * row[name]:>14.2f}" if name in row else f"{'-':>14}" for name in functions)
        ratios = [f"{row[n] / row['ours C']:.1f}x" if n in row else "-" for n in ("transformers", "SDPA", "ours torch")]
        token = 1e6 * row["ours C"] / length
        lines.append(f"{length:>6}{cells} | {ratios[0]:>19}{ratios[1]:>11}{ratios[2]:>12}{token:>10.2f}")
        print(lines[-1], flush=True)
    return [*lines, ""]


def errors() -> list[str]:
    """Everybody computes the same thing: relative error against the fp64 recurrence, forward and gradient of g."""
    tensors = inputs(200, 2, 64)
    wide = [x.double().requires_grad_() for x in tensors]
    exact = kda(*wide, backend="recurrent")[0]
    weight = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    slope = torch.autograd.grad(exact, wide[3], weight.double())[0]
    lines = []
    for name, function in contenders().items():
        if name == "SDPA":
            continue
        leaves = [x.clone().requires_grad_() for x in tensors]
        o = function(*leaves)
        (found,) = torch.autograd.grad(o, leaves[3], weight)
        pairs = ((o.detach(), exact.detach()), (found, slope))
        forward_error, slope_error = (float((x - y).norm() / y.norm()) for x, y in pairs)
        lines.append(
            f"error against the fp64 recurrence, {name}: o {forward_error:.1e}, gradient of g {slope_error:.1e}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="T up to 1024 only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if (reason := kda_c.available()) is not None:
        raise SystemExit(f"the C kernel cannot be measured: {reason}")
    lengths = LENGTHS[:3] if options.quick else LENGTHS
    lines = [f"KDA on a CPU, {options.threads} thread(s), torch {torch.__version__}; {machine()}", *errors(), ""]
    print("\n".join(lines))
    for heads, dim in SIZES:
        for kind in ("forward", "forward + backward"):
            print(f"{kind}, H = {heads}, d = {dim}")
            lines += table(kind, heads, dim, lengths)
    text = "\n".join(lines)
    print("\n" + text)
    if options.save:
        print(f"saved: {save('kda-speed', text)}")


if __name__ == "__main__":
    main()
