"""What one decoded token costs per layer as the context grows: full attention, dense MLA, sparse MLA, KDA.

usage: python benchmarks/decode_cost.py [--save] [--long] [--k 2048]

CPU time of the attention core on one thread, best of several, without the projections (they do not depend on the
context). Dense MLA on the same latents is the peer of DSA: the ratio column is dense over sparse. Cache bytes are those
of the tensors that a decoder must keep, beside the formula.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from machine import machine, save
from torch import Tensor

from fairtrial.nn.ops import dsa, mla
from fairtrial.nn.ops.kda import kda, l2norm

HEADS, WIDTH = 8, 128  # full attention and KDA
MLA_HEADS, LATENT, SHARED = 16, 512, 64  # as Kimi Linear and DeepSeek cache them: 576 numbers a token
INDEX_HEADS, INDEX_WIDTH = 4, 128
POOL = 16
SCALE = (128 + SHARED) ** -0.5


@dataclass
class Row:
    """Microseconds per token and layer, and bytes kept, at one context."""

    context: int
    micros: dict[str, float]
    cache: dict[str, int]
    formula: dict[str, int]


def cpu_micros(step: Callable[[], object], budget: float = 0.6) -> float:
    """Best CPU time of a call in microseconds, over about `budget` seconds and at least five calls."""
    step()
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 5 or spent < budget:
        before = time.process_time()
        step()
        took = time.process_time() - before
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best * 1e6


def full(context: int, g: torch.Generator) -> tuple[float, int]:
    """Softmax attention with keys and values per head, as matrix products."""
    keys, values = (torch.randn(HEADS, context, WIDTH, generator=g) for _ in range(2))
    q = torch.randn(HEADS, 1, WIDTH, generator=g)
    micros = cpu_micros(lambda: torch.softmax(q @ keys.transpose(1, 2) * WIDTH**-0.5, -1) @ values)
    return micros, keys.nbytes + values.nbytes


def sparse(context: int, k: int, g: torch.Generator, row: Row) -> None:
    """Dense and sparse attention over one latent cache; the parts of the sparse one are timed apart."""
    latents = torch.randn(1, context, LATENT + SHARED, generator=g)
    keys = torch.randn(1, context, INDEX_WIDTH, generator=g)
    q = torch.randn(1, 1, MLA_HEADS, LATENT + SHARED, generator=g)
    qi = torch.randn(1, 1, INDEX_HEADS, INDEX_WIDTH, generator=g)
    w = torch.randn(1, 1, INDEX_HEADS, generator=g)
    last = context - 1
    row.micros["MLA dense"] = cpu_micros(lambda: mla.absorbed_attention(q, latents, SCALE, LATENT, start=last))
    scores = dsa.index_scores(qi, keys, w, last)
    chosen = dsa.select(scores, k, last)

    def whole() -> Tensor:
        picked = dsa.select(dsa.index_scores(qi, keys, w, last), k, last)
        return dsa.sparse_attention(q, latents, picked, SCALE, LATENT)

    row.micros["DSA"] = cpu_micros(whole)
    row.micros["indexer"] = cpu_micros(lambda: dsa.index_scores(qi, keys, w, last))
    row.micros["top-k"] = cpu_micros(lambda: dsa.select(scores, k, last))
    row.micros["gather"] = cpu_micros(lambda: dsa.sparse_attention(q, latents, chosen, SCALE, LATENT))
    pooled = keys.view(1, context // POOL, POOL, INDEX_WIDTH).mean(2)

    def with_pools() -> Tensor:
        picked = dsa.select_pooled(dsa.index_scores(qi, pooled, w, last, pool=POOL), k, POOL, last)
        return dsa.sparse_attention(q, latents, picked, SCALE, LATENT)

    row.micros["DSA pooled"] = cpu_micros(with_pools)
    row.cache |= {"MLA": latents.nbytes, "DSA": latents.nbytes + keys.nbytes}


def recurrent(context: int, g: torch.Generator) -> tuple[float, int]:
    """One KDA step from the state that `context` tokens leave behind."""

    def inputs(tokens: int) -> tuple[Tensor, ...]:
        q, k, v, z = (torch.randn(1, tokens, HEADS, WIDTH, generator=g) for _ in range(4))
        beta = torch.rand(1, tokens, HEADS, generator=g)
        return l2norm(q), l2norm(k), v, -0.1 * z.exp(), beta

    state = None
    for _ in range(0, context, 1024):
        _, state = kda(*inputs(min(1024, context)), initial_state=state)
    assert state is not None
    one = inputs(1)
    return cpu_micros(lambda: kda(*one, initial_state=state)), state.nbytes


def measure(context: int, k: int) -> Row:
    g = torch.Generator().manual_seed(context)
    row = Row(context, {}, {}, {})
    row.micros["full"], row.cache["full"] = full(context, g)
    sparse(context, k, g, row)
    row.micros["KDA"], row.cache["KDA"] = recurrent(context, g)
    row.formula = {
        "full": context * 2 * HEADS * WIDTH * 4,
        "MLA": context * (LATENT + SHARED) * 4,
        "DSA": context * (LATENT + SHARED + INDEX_WIDTH) * 4,
        "KDA": HEADS * WIDTH * WIDTH * 4,
    }
    return row


def table(rows: list[Row], k: int) -> str:
    lines = [
        "Decode cost of attention, microseconds of CPU per token and layer (fp32, one thread, best of several)",
        f"full: {HEADS} heads x {WIDTH}. MLA: {MLA_HEADS} heads on rows of {LATENT}+{SHARED}, absorbed.",
        f"DSA: the same rows, k = {k}, {INDEX_HEADS} indexer heads x {INDEX_WIDTH}. Its parts: indexer, top-k,",
        f"gather (all that a layer with shared indices pays); pooled: {POOL}-token pools.",
        f"KDA: {HEADS} heads x {WIDTH} x {WIDTH}.",
        "",
    ]
    names = ["full", "MLA dense", "DSA", "indexer", "top-k", "gather", "DSA pooled", "KDA"]
    extra = ["MLA/DSA", "MLA/pooled", "full/KDA"]
    lines.append(f"{'context':>8}" + "".join(f"{name:>12}" for name in names + extra))
    for row in rows:
        m = row.micros
        ratios = (m["MLA dense"] / m["DSA"], m["MLA dense"] / m["DSA pooled"], m["full"] / m["KDA"])
        lines.append(
            f"{row.context:>8}" + "".join(f"{m[n]:>12,.0f}" for n in names) + "".join(f"{r:>11.1f}x" for r in ratios)
        )
    kinds = ["full", "MLA", "DSA", "KDA"]
    lines += ["", "Cache, bytes per layer and sequence: measured (formula)"]
    lines.append(f"{'context':>8}" + "".join(f"{kind:>30}" for kind in kinds))
    for row in rows:
        cells = (f"{row.cache[kind]:,} ({row.formula[kind]:,})" for kind in kinds)
        lines.append(f"{row.context:>8}" + "".join(f"{cell:>30}" for cell in cells))
    first, last = rows[0].micros, rows[-1].micros
    at_64k = next((r.micros for r in rows if r.context == 65_536), None)
    lines.append("")
    if at_64k is not None:
        ratio = at_64k["MLA dense"] / at_64k["DSA"]
        lines.append(
            f"DSA at 64k: {ratio:.1f}x cheaper than dense MLA (target 3x: {'met' if ratio >= 3 else 'MISSED'})"
        )
    lines.append(
        f"KDA from {rows[0].context} to {rows[-1].context} tokens: {last['KDA'] / first['KDA']:.2f}x"
        f" (flat is 1); full attention {last['full'] / first['full']:.0f}x"
    )
    lines += ["", f"torch {torch.__version__}; {machine()}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--long", action="store_true", help="also 128k")
    parser.add_argument("--k", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(1)
    contexts = [1024, 4096, 16_384, 65_536] + ([131_072] if options.long else [])
    text = table([measure(context, options.k) for context in contexts], options.k)
    print(text)
    if options.save:
        print(f"saved: {save('decode-cost', text)}")


if __name__ == "__main__":
    main()
