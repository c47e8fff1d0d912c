"""KDA on a GPU: our chunk form against flash-linear-attention's Triton kernel and causal SDPA; on a CPU a small part.

usage: python benchmarks/kda_gpu.py [--compile] [--quick] [--save]

With a CUDA device: forward and forward + backward at 16,384 tokens (one sequence, and eight of 2,048), 4, 16 and 32
heads of 64 and 128, in bf16 and fp32; milliseconds are medians of CUDA events, ratios are ours / peer (below 1: ours is
faster). The error of every method against the fp64 recurrence comes first, with three bitwise questions (does a later
gate move an earlier output, does the batch move a row, does the prefix alone differ). fla is optional (pip install
flash-linear-attention); gates are bounded at -5, so that its faster "safe" path is a fair peer. TF32 is off for ours.
`--compile` adds our form with its score products compiled by torch.compile: up to a minute a shape, so with --quick.

Without a CUDA device it says so and times recurrence, chunk, C kernel and SDPA on one CPU thread.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine, save
from torch import Tensor

from fairtrial.nn.ops import kda_chunk as chunk_form
from fairtrial.nn.ops.kda import backends, gate_bounded, kda, l2norm

Method = Callable[[list[Tensor]], Tensor]
COMPILED = ("_decays", "_scores", "_scores_backward")


def make(batch: int, length: int, heads: int, width: int, kind: torch.dtype, device: str, gate: str) -> list[Tensor]:
    """q, k, v, g, beta as leaves; the same values on every device. Gates stay fp32, as fla asks for."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, length, heads, width)
    q, k, v, z = (torch.randn(shape, generator=generator) for _ in range(4))
    beta = torch.rand(shape[:3], generator=generator)
    bounded = gate_bounded(2 * z, torch.zeros(heads), torch.full((heads * width,), -3.0))
    g = {"bounded": bounded, "none": torch.zeros_like(z), "to -50": -50 * torch.sigmoid(z)}[gate]
    typed = [l2norm(q).to(kind), l2norm(k).to(kind), v.to(kind), g, beta]
    return [x.to(device).requires_grad_() for x in typed]


def ours(backend: str) -> Method:
    return lambda x: kda(*x, backend=backend)[0]


def fla_safe(x: list[Tensor]) -> Tensor:
    from fla.ops.kda import chunk_kda

    return chunk_kda(*x, output_final_state=True, safe_gate=True)[0]


def sdpa(x: list[Tensor]) -> Tensor:
    q, k, v = (y.transpose(1, 2) for y in x[:3])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def chunk_compiled() -> Method:
    """The chunk form with its decays and score products compiled, once for each shape that they meet."""
    torch._dynamo.config.recompile_limit = 64
    plain = {name: getattr(chunk_form, name) for name in COMPILED}
    fast = {name: torch.compile(function, dynamic=False) for name, function in plain.items()}

    def use(functions: dict[str, Callable[..., object]]) -> None:
        for name, function in functions.items():
            setattr(chunk_form, name, function)

    class Compiled(torch.autograd.Function):
        """Puts the compiled parts in place before our backward runs, and the plain ones back behind it."""

        @staticmethod
        def forward(ctx: object, x: Tensor, swap: dict[str, Callable[..., object]]) -> Tensor:
            ctx.swap = swap
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, d: Tensor) -> tuple[Tensor, None]:
            use(ctx.swap)
            return d, None

    def method(x: list[Tensor]) -> Tensor:
        use(fast)
        try:
            first = Compiled.apply(x[0], plain)
            o = kda(first, *x[1:], backend="chunk")[0]
            return Compiled.apply(o, fast)
        finally:
            use(plain)

    return method


def gradients(method: Method, x: list[Tensor]) -> tuple[Tensor, ...]:
    o = method(x)
    weight = torch.arange(o.numel(), device=o.device).mul(0.7).cos().view_as(o)
    weight = weight.bfloat16().to(o.dtype)  # the same numbers for every type
    return (o.detach(), *torch.autograd.grad(o, x, weight))


def errors(method: Method, kind: torch.dtype, width: int, device: str, gate: str) -> tuple[float, float]:
    """Relative error of o and the largest one of the five gradients, against the fp64 recurrence of the same inputs."""
    x = make(1, 512, 2, width, kind, device, gate)
    exact = gradients(ours("recurrent"), [y.detach().double().requires_grad_() for y in x])
    pairs = zip(gradients(method, x), exact, strict=True)
    found = [float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs]
    return found[0], max(found[1:], key=lambda value: (value != value, value))  # a NaN is the largest


def same_bits(method: Method, kind: torch.dtype, width: int, device: str) -> list[bool]:
    """Bitwise: outputs before a changed gate; a row of a batch of four; the first 256 tokens run alone."""
    x = [y.detach() for y in make(4, 512, 2, width, kind, device, "bounded")]
    later = [*x]
    later[3] = x[3].clone()
    later[3][:, 200:] *= 0.5
    with torch.no_grad():
        whole = method(x)
        prefix = torch.equal(method(later)[:, :200], whole[:, :200])
        row = torch.equal(method([y[2:3].contiguous() for y in x])[0], whole[2])
        split = torch.equal(method([y[:, :256].contiguous() for y in x]), whole[:, :256])
    return [prefix, row, split]


def attempt(job: Callable[[], str]) -> str:
    """A peer that fails is a line of the table, not the end of the benchmark."""
    try:
        return job()
    except Exception as failure:  # noqa: BLE001 - a peer may fail in ways of its own
        return f"failed: {type(failure).__name__}: {str(failure).splitlines()[0][:60]}"


def error_table(methods: dict[str, Method], kinds: list[torch.dtype], device: str) -> list[str]:
    lines = ["Relative error against the fp64 recurrence (512 tokens, 2 heads): output / worst gradient", ""]
    gates = ("none", "bounded", "to -50")
    lines.append(f"{'':<34}" + "".join(f"{gate:>20}" for gate in gates))
    for kind in kinds:
        for width in (64, 128):
            for name, method in methods.items():
                cells = []
                for gate in gates:
                    if name == "fla safe" and gate == "to -50":  # outside what that path accepts
                        cells.append("-")
                        continue
                    measure = "{:.1e} / {:.1e}".format
                    cells.append(attempt(lambda m=method, g=gate: measure(*errors(m, kind, width, device, g))))  # noqa: B023
                lines.append(f"{name:<16}{str(kind)[6:]:<10}d{width:<7}" + "".join(f"{cell:>20}" for cell in cells))
    lines += ["", f"{'Same bits?':<34}{'later gate':>20}{'batch':>20}{'prefix alone':>20}"]
    for kind in kinds:
        for name, method in methods.items():
            words = attempt(
                lambda m=method: "".join(f"{'yes' if x else 'NO':>20}" for x in same_bits(m, kind, 64, device))  # noqa: B023
            )
            lines.append(f"{name:<16}{str(kind)[6:]:<10}{'d64':<8}{words}")
    return lines


def cuda_ms(job: Callable[[], object], rounds: int) -> float:
    for _ in range(3):
        job()
    spent = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        job()
        end.record()
        torch.cuda.synchronize()
        spent.append(start.elapsed_time(end))
    return statistics.median(spent)


def cpu_ms(job: Callable[[], object], rounds: int) -> float:
    job()
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        job()
        spent.append(time.process_time() - start)
    return 1000 * min(spent)


def times(method: Method, x: list[Tensor], clock: Callable[..., float], rounds: int) -> tuple[float, float]:
    """Milliseconds of forward, and of forward + backward (the gradient of the output is made beforehand)."""
    with torch.no_grad():
        forward = clock(lambda: method(x), rounds)
        weight = torch.ones_like(method(x))

    def both() -> object:
        return torch.autograd.grad(method(x), x, weight, allow_unused=True)

    return forward, clock(both, rounds)


def time_table(
    methods: dict[str, Method], cases: list[tuple], device: str, clock: Callable[..., float], rounds: int
) -> list[str]:
    first = next(iter(methods))
    lines = ["", f"Milliseconds; in brackets {first} / the other", ""]
    lines.append(f"{'':<34}" + "".join(f"{name:>18}" for name in methods))
    for kind, batch, length, heads, width in cases:
        x = make(batch, length, heads, width, kind, device, "bounded")
        found: dict[str, tuple[float, float] | str] = {}
        for name, method in methods.items():
            if name == "recurrent" and length > 512:
                found[name] = "-"
                continue
            try:
                found[name] = times(method, x, clock, rounds)
            except Exception as failure:  # noqa: BLE001 - a peer may fail in ways of its own
                found[name] = type(failure).__name__[:17]
        base = found[first]
        for place, mode in enumerate(("fwd", "fwd+bwd")):
            cells = []
            for name, value in found.items():
                if isinstance(value, str):
                    cells.append(value)
                elif name == first or isinstance(base, str):
                    cells.append(f"{value[place]:.2f}")
                else:
                    cells.append(f"{value[place]:.2f} ({base[place] / value[place]:.2f})")
            title = f"{str(kind)[6:]:<9}B{batch} T{length} H{heads} d{width}"
            lines.append(f"{title:<26}{mode:<8}" + "".join(f"{cell:>18}" for cell in cells))
        del x
    return lines


def on_gpu(options: argparse.Namespace) -> list[str]:
    torch.backends.cuda.matmul.allow_tf32 = False
    methods: dict[str, Method] = {"chunk": ours("chunk")}
    versions = [f"torch {torch.__version__}"]
    if (reason := backends()["fla"]) is None:
        methods |= {"fla": ours("fla"), "fla safe": fla_safe}
        versions += [f"{name} {importlib.metadata.version(name)}" for name in ("fla-core", "triton")]
    else:
        versions.append(f"no fla: {reason}")
    lines = [f"{torch.cuda.get_device_name()}, {', '.join(versions)}", ""]
    kinds = [torch.bfloat16, torch.float32]
    lines += error_table(methods, kinds, "cuda")
    shapes = [(1, 16384), (8, 2048)]
    sizes = [(4, 64), (32, 128)] if options.quick else [(h, d) for h in (4, 16, 32) for d in (64, 128)]
    cases = [(kind, b, t, h, d) for kind in kinds for b, t in shapes for h, d in sizes]
    if options.compile:
        methods["chunk compiled"] = chunk_compiled()
        figures = attempt(
            lambda: "{:.1e} / {:.1e}".format(*errors(methods["chunk compiled"], kinds[1], 64, "cuda", "bounded"))
        )
        lines += ["", f"chunk compiled, float32, d64, bounded: error {figures}"]
    return lines + time_table({**methods, "SDPA": sdpa}, cases, "cuda", cuda_ms, 10)


def on_cpu(options: argparse.Namespace) -> list[str]:
    torch.set_num_threads(1)
    lines = ["No CUDA device here: the CPU part only (one thread, CPU time, best of 3).", ""]
    methods: dict[str, Method] = {"chunk": ours("chunk"), "recurrent": ours("recurrent")}
    if options.compile:
        lines += ["--compile is for a GPU (minutes of compilation for nothing on a CPU): left out.", ""]
    if (reason := backends()["c"]) is None:
        methods["c"] = ours("c")
    else:
        lines += [f"No C kernel: {reason}.", ""]
    lines += error_table(methods, [torch.float32], "cpu")
    cases = [(torch.float32, 1, t, h, d) for h, d in ((4, 64), (8, 128)) for t in (512, 2048)]
    if options.quick:
        cases = cases[:1]
    return lines + time_table({**methods, "SDPA": sdpa}, cases, "cpu", cpu_ms, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="add our chunk form compiled by torch.compile")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines = on_gpu(options) if torch.cuda.is_available() else on_cpu(options)
    text = "\n".join(["KDA: chunk form, peers and SDPA", machine(), *lines])
    print(text)
    if options.save:
        print(f"\nsaved: {save('kda-gpu' if torch.cuda.is_available() else 'kda-cpu-part', text)}")


if __name__ == "__main__":
    main()
