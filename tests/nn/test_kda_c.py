"""The C kernel of KDA: against the fp64 recurrence; one result for any split, batch and threads; how it is built."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.ops import kda_c, library  # noqa: E402
from fairtrial.nn.ops.kda import kda, l2norm  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which(os.environ.get("CC", "cc"))
GATES = ["none", "initialised", "saturated", "harsh", "extreme"]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def built(request):
    """Where there is a compiler the kernel must be there, too: nothing below is skipped by a broken build."""
    if "builds" not in request.node.name and COMPILER is None and kda_c.available() is not None:
        pytest.skip("no C compiler on this machine")
    if "builds" not in request.node.name:
        assert kda_c.available() is None


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def inputs(batch, length, heads, value_heads, key_dim, value_dim, gate="initialised", seed=0, states=None):
    """q, k, v, g, beta and an initial state, in fp64 with values that fp32 holds exactly."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    q, k = l2norm(normal(batch, length, heads, key_dim)), l2norm(normal(batch, length, heads, key_dim))
    shape = (batch, length, value_heads, key_dim)
    if gate == "none":
        g = torch.zeros(shape)
    elif gate == "initialised":
        rate = 1 + 15 * torch.rand(value_heads, 1, generator=rng)
        g = -rate * torch.nn.functional.softplus(normal(*shape) - 4)
    elif gate == "saturated":
        g = torch.full(shape, -5.0)
    else:
        g = -50 * torch.rand(shape, generator=rng)
    if gate == "extreme":
        g[..., 0] = -1000.0
    beta = torch.rand(batch, length, value_heads, generator=rng)
    state = normal(states or batch, value_heads, key_dim, value_dim)
    return [x.double() for x in (q, k, normal(batch, length, value_heads, value_dim), g, beta, state)]


def gradients(run, tensors, seed=1):
    """Outputs of `run` and the gradients of a random linear function of them."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    outputs = run(*leaves)
    rng = torch.Generator().manual_seed(seed)
    loss = sum((x * torch.randn(x.shape, generator=rng).to(x.dtype)).sum() for x in outputs)
    return [x.detach() for x in outputs], list(torch.autograd.grad(loss, leaves))


def compiled(q, k, v, g, beta, state=None, cu=None):
    return kda_c.kda_c(q, k, v, g, beta, q.shape[-1] ** -0.5, state, cu)


def recurrence(q, k, v, g, beta, state=None, cu=None):
    return kda(q, k, v, g, beta, initial_state=state, cu_seqlens=cu, backend="recurrent")


def compare(tensors, cu=None):
    exact = gradients(lambda *x: recurrence(*x, cu), tensors)
    ours = gradients(lambda *x: compiled(*x, cu), [x.float() for x in tensors])
    for bound, found, wanted in zip((1e-5, 1e-4), ours, exact, strict=True):
        for x, y in zip(found, wanted, strict=True):
            assert x.dtype == torch.float32
            assert x.shape == y.shape
            assert torch.isfinite(x).all()
            assert (x - y).norm() <= bound * y.norm()


@pytest.mark.parametrize("gate", GATES)
def test_equals_the_recurrence_in_any_gate_regime(gate):
    compare(inputs(2, 70, 2, 2, 64, 64, gate))


@pytest.mark.parametrize(
    "shape", [(1, 67, 2, 4, 48, 80), (1, 40, 1, 1, 128, 128), (2, 33, 1, 3, 7, 3), (1, 1, 1, 1, 1, 1)]
)
def test_odd_sizes_and_grouped_values(shape):
    compare(inputs(*shape))


def test_packed_sequences_equal_separate_ones():
    cu = torch.tensor([0, 33, 33, 34, 80])
    tensors = inputs(1, 80, 1, 2, 16, 24, states=4)
    compare(tensors, cu)
    *rest, state = [x.float() for x in tensors]
    packed, final = compiled(*rest, state, cu)
    for i, (a, b) in enumerate([(0, 33), (33, 33), (33, 34), (34, 80)]):
        o, last = compiled(*(x[:, a:b] for x in rest), state[i : i + 1])
        assert torch.equal(o, packed[:, a:b])
        assert torch.equal(last, final[i : i + 1])


@pytest.mark.parametrize("isa", library.ISAS)
def test_each_instruction_set(isa, monkeypatch):
    monkeypatch.setenv(kda_c.SWITCH, isa)
    if kda_c.available() is not None:
        pytest.skip(f"this processor has no {isa}")
    compare(inputs(1, 40, 1, 2, 48, 80, "harsh"))
    tensors = [x.float() for x in inputs(1, 40, 1, 2, 48, 80)]
    whole, final = compiled(*tensors)
    halves = in_pieces(tensors, [13, 27])
    assert torch.equal(whole, halves[0]) and torch.equal(final, halves[1])


def in_pieces(tensors, sizes):
    *rest, state = tensors
    outputs, start = [], 0
    for size in sizes:
        o, state = compiled(*(x[:, start : start + size] for x in rest), state)
        outputs.append(o)
        start += size
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize(
    "sizes", [[37, 113], [64, 86], [32, 32, 86], [1] * 150], ids=["37+113", "64+86", "32s", "decode"]
)
@pytest.mark.parametrize("shape", [(1, 150, 2, 2, 64, 64), (1, 150, 1, 2, 48, 80)])
def test_any_split_gives_the_same_bits(shape, sizes):
    tensors = [x.float() for x in inputs(*shape)]
    whole, final = compiled(*tensors)
    pieces, last = in_pieces(tensors, sizes)
    assert torch.equal(whole, pieces)
    assert torch.equal(final, last)


def test_the_batch_and_the_gradient_change_no_bit():
    tensors = [x.float() for x in inputs(3, 50, 2, 2, 32, 48)]
    (o, final), grads = gradients(compiled, tensors)
    with torch.no_grad():
        assert torch.equal(o, compiled(*tensors)[0])
    for i in range(3):
        (alone, state), _ = gradients(compiled, [x[i : i + 1] for x in tensors])
        assert torch.equal(alone[0], o[i])
        assert torch.equal(state[0], final[i])
    twice = gradients(compiled, [torch.cat([x, x]) for x in tensors])[0][0]
    assert torch.equal(twice[3:], o)
    assert all(torch.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("shape", [(1, 150, 2, 4, 64, 64), (1, 600, 1, 1, 48, 80), (1, 140, 1, 1, 128, 128)])
def test_threads_change_no_bit_of_outputs_and_gradients(shape, threads):
    tensors = [x.float() for x in inputs(*shape)]
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        assert kda_c._threads(shape[1] * shape[3] * shape[4] * shape[5]) == min(count, 2)  # the work is worth two
        results.append(gradients(compiled, tensors))
    for outputs, grads in results[1:]:
        for x, y in zip([*outputs, *grads], [*results[0][0], *results[0][1]], strict=True):
            assert torch.equal(x, y)


def test_what_comes_later_changes_no_earlier_bit():
    q, k, v, g, beta, state = (x.float() for x in inputs(1, 90, 2, 2, 32, 32))
    before = compiled(q, k, v, g, beta, state)[0][:, :45]
    g, v = g.clone(), v.clone()
    g[:, 45:] = -1000.0
    v[:, 45:] = 7.0
    assert torch.equal(compiled(q, k, v, g, beta, state)[0][:, :45], before)


def test_nan_stays_in_its_sequence_and_no_gate_overflows():
    q, k, v, g, beta, state = (x.float() for x in inputs(2, 20, 1, 1, 16, 16, "none"))
    v[0, 5] = float("nan")
    o, _ = compiled(q, k, v, g, beta, state)
    assert torch.isfinite(o[1]).all() and torch.isfinite(o[0, :5]).all() and o[0, 5:].isnan().all()
    g[1, 3] = float("-inf")
    o, _ = compiled(q, k, v, g, beta, state)
    fresh, _ = compiled(*(x[1:, 3:] for x in (q, k, v)), torch.zeros_like(g[1:, 3:]), beta[1:, 3:])
    assert torch.equal(o[1:, 3:], fresh)


def test_views_are_read_as_they_are():
    wide = [x.float() for x in inputs(2, 30, 2, 2, 16, 16)]
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) if x.ndim == 4 else x for x in wide]
    (o, _), grads = gradients(compiled, wide)
    (same, _), others = gradients(compiled, strided)
    assert torch.equal(o, same)
    assert all(torch.equal(x, y) for x, y in zip(grads, others, strict=True))


def test_a_second_derivative_is_refused():
    leaves = [x.float().requires_grad_() for x in inputs(1, 4, 1, 1, 8, 8)]
    with pytest.raises(UserError, match="no second derivative"):
        torch.autograd.grad(compiled(*leaves)[0].sum(), leaves[2], create_graph=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x | {"v": x["v"].double()}, "v is torch.float64"),
        (lambda x: x | {"k": x["k"][:, :, :, :5]}, r"k is \[2, 6, 1, 5\]"),
        (lambda x: x | {"beta": x["beta"][:, :3]}, "beta is"),
        (lambda x: x | {"g": x["g"][0]}, "g is"),
        (lambda x: x | {"q": x["q"].repeat(1, 1, 4, 1), "k": x["k"].repeat(1, 1, 4, 1)}, "multiple of the 4 heads"),
        (lambda x: x | {"initial_state": x["initial_state"][:1]}, "initial_state is"),
        (lambda x: x | {"cu_seqlens": torch.tensor([0, 6])}, "batch of one"),
        (lambda x: x | {"q": x["q"].to("meta")}, "on meta"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("q", "k", "v", "g", "beta", "initial_state")
    given = dict(zip(names, (x.float() for x in inputs(2, 6, 1, 2, 8, 8)), strict=True))
    with pytest.raises(UserError, match=message) as error:
        kda_c.kda_c(**change(given), scale=1.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("borders", [[0, 9], [0, 4, 3, 6], [1, 6], [0.0, 6.0], [6]])
def test_bad_borders_are_refused(borders):
    tensors = [x.float() for x in inputs(1, 6, 1, 1, 8, 8)[:5]]
    with pytest.raises(UserError, match="cu_seqlens"):
        compiled(*tensors, None, torch.tensor(borders))


def test_the_switch_turns_it_off(monkeypatch):
    tensors = [x.float() for x in inputs(1, 6, 1, 1, 8, 8)]
    monkeypatch.setenv(kda_c.SWITCH, "0")
    assert kda_c.SWITCH in str(kda_c.available())
    with pytest.raises(UserError, match="FAIRTRIAL_KDA_C=0"):
        compiled(*tensors)
    monkeypatch.setenv(kda_c.SWITCH, "mmx")
    assert "may be 0 or base" in str(kda_c.available())


# ---- the build ----


def hook():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_compiler
def test_builds_a_library_that_says_what_it_was_built_from(tmp_path, monkeypatch):
    source = tmp_path / "kda.c"
    for name in ("kda.c", "vectors.h"):
        shutil.copy(ROOT / "src/fairtrial/nn/ops" / name, tmp_path)
    built, broken = tmp_path / "_kda.so", tmp_path / "broken.so"
    hook().compile_kernel(source, built)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["_kda.so", "kda.c", "vectors.h"]
    broken.write_bytes(b"no library")
    source_as_built = source.read_text()
    for path, text, reason in [
        (built, source_as_built, None),
        (built, source_as_built + "\n", "another version"),
        (broken, source_as_built, "cannot be loaded"),
        (tmp_path / "missing.so", source_as_built, "not built"),
    ]:
        source.write_text(text)
        monkeypatch.setattr(kda_c, "LIBRARY", path)
        kda_c._load.cache_clear()
        assert kda_c.available() is None if reason is None else reason in str(kda_c.available())
    monkeypatch.undo()
    kda_c._load.cache_clear()


@pytest.fixture
def project(tmp_path):
    """As much of the project as its build reads."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "src/fairtrial/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(
        ROOT / "src/fairtrial/nn/ops", tmp_path / "src/fairtrial/nn/ops", ignore=shutil.ignore_patterns("*.so")
    )
    (tmp_path / ".gitignore").write_text("*.so\n")
    return tmp_path


def build(project, **environment):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    done = subprocess.run(command, cwd=project, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (project / "dist").iterdir()
    return wheel, zipfile.ZipFile(wheel).namelist(), done.stdout + done.stderr


@needs_compiler
def test_builds_a_wheel_of_its_platform_for_any_python(project):
    wheel, names, _ = build(project)
    assert {f"fairtrial/nn/ops/{name}" for name in ("_kda.so", "_decode.so", "kda.c", "decode.c", "vectors.h")} <= set(
        names
    )
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")


@pytest.mark.parametrize("compiler", ["/nonexistent", "false"])
def test_builds_a_pure_wheel_without_a_compiler(project, compiler):
    (project / "src/fairtrial/nn/ops/_kda.so").write_bytes(b"left over from another build")
    wheel, names, said = build(project, CC=compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith(".so")] and "fairtrial/nn/ops/kda.c" in names
    (line,) = [line for line in said.splitlines() if "KDA" in line]
    assert "not built" in line and compiler in line
