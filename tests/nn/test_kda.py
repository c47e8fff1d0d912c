"""KDA: every back end against the fp64 recurrence, and the invariances that a user relies on."""

import math
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.ops.kda import backends, gate_bounded, gate_softplus, kda, l2norm  # noqa: E402
from fairtrial.nn.ops.kda_chunk import kda_chunk  # noqa: E402

GATES = ("none", "init", "saturated", "fifty")
REASONS = backends()
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(REASONS[name] is not None, reason=f"{name}: {REASONS[name]}"))
    for name in ("recurrent", "chunk", "c")
]


def gate(kind, shape, generator):
    """Log decay [B, T, HV, K] in fp64: none, the published initialisation, the bounded gate at both ends, [-50, 0]."""
    *_, heads, width = shape
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "none":
        return torch.zeros_like(z)
    if kind == "init":
        rate = torch.empty(heads, dtype=torch.float64).uniform_(1, 16, generator=generator)
        dt = torch.empty(heads * width, dtype=torch.float64)
        dt = dt.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        return gate_softplus(z, rate.log(), dt + torch.log(-torch.expm1(-dt)))
    if kind == "saturated":
        return gate_bounded(30 * z, torch.zeros(heads), torch.zeros(heads * width))
    return -50 * torch.rand(shape, generator=generator, dtype=torch.float64)


def inputs(kind="init", B=2, T=300, H=2, HV=4, K=64, V=48, seed=0, N=None):
    """q, k, v, g, beta and a non-zero initial state, as fp64 leaves."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = l2norm(normal(B, T, H, K)), l2norm(normal(B, T, H, K))
    v, beta, state = normal(B, T, HV, V), torch.sigmoid(normal(B, T, HV)), normal(N or B, HV, K, V)
    return [x.requires_grad_() for x in (q, k, v, gate(kind, (B, T, HV, K), generator), beta, state)]


def single(tensors):
    return [x.detach().float().requires_grad_() for x in tensors]


def run(tensors, backend, **options):
    return kda(*tensors[:5], initial_state=tensors[5], backend=backend, **options)


def gradients(tensors, backend, **options):
    o, state = run(tensors, backend, **options)
    weight = torch.arange(o.numel(), dtype=torch.float64).mul(0.7).cos().view_as(o).to(o.dtype)
    loss = (o * weight).sum() + state.square().sum() / 2
    return torch.autograd.grad(loss, tensors)


def error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fp32_is_within_1e_5_of_the_fp64_recurrence_and_all_gradients_within_1e_4(backend, kind):
    exact = inputs(kind)
    ours = single(exact)
    for name, a, b in zip(("o", "state"), run(ours, backend), run(exact, "recurrent"), strict=True):
        assert error(a, b) < 1e-5, name
    names = ("q", "k", "v", "g", "beta", "initial_state")
    for name, a, b in zip(names, gradients(ours, backend), gradients(exact, "recurrent"), strict=True):
        assert error(a, b) < 1e-4, name


@pytest.mark.parametrize("kind", GATES)
def test_the_chunk_form_in_fp64_is_the_recurrence_to_rounding(kind):
    tensors = inputs(kind, T=140, K=16, V=8)
    for a, b in zip(run(tensors, "chunk"), run(tensors, "recurrent"), strict=True):
        assert error(a, b) < 1e-13
    for a, b in zip(gradients(tensors, "chunk"), gradients(tensors, "recurrent"), strict=True):
        assert error(a, b) < 1e-13


def test_the_recurrence_is_the_papers_matrix_form():
    q, k, v, g, beta, S = (x.detach() for x in inputs("saturated", B=1, T=7, H=1, HV=1, K=5, V=3))
    o, final = kda(q, k, v, g, beta, initial_state=S, scale=0.3, backend="recurrent")
    state = S[0, 0]
    for t in range(7):
        kt = k[0, t, 0][:, None]
        erase = torch.eye(5, dtype=torch.float64) - beta[0, t, 0] * kt @ kt.T
        state = erase @ torch.diag(g[0, t, 0].exp()) @ state + beta[0, t, 0] * kt @ v[0, t, 0][None]
        assert torch.allclose(o[0, t, 0], 0.3 * state.T @ q[0, t, 0], atol=1e-14)
    assert torch.allclose(final[0, 0], state, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gate_of_minus_1000_in_one_channel_stays_finite_and_right(backend):
    exact = inputs("init", T=80, K=16, V=8)
    with torch.no_grad():
        exact[3][:, 5:70:9, :, 3] = -1000.0
    ours = single(exact)
    for a, b in zip(
        (*run(ours, backend), *gradients(ours, backend)),
        (*run(exact, "recurrent"), *gradients(exact, "recurrent")),
        strict=True,
    ):
        assert torch.isfinite(a).all()
        assert error(a, b) < 1e-5


@pytest.mark.parametrize("kind", ("init", "fifty"))
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_later_changes_an_earlier_output_by_a_bit(backend, kind):
    before = [x.detach() for x in single(inputs(kind, T=150, K=32, V=32))]
    after = [x.detach() for x in single(inputs("fifty" if kind == "init" else "none", T=150, K=32, V=32, seed=1))]
    o, _ = run(before, backend)
    for place in (1, 37, 64, 101):
        gates = [x.clone() for x in before]
        gates[3][:, place:] = after[3][:, place:]
        everything = [torch.cat((x[:, :place], y[:, place:]), 1) for x, y in zip(before[:5], after[:5], strict=True)]
        for changed in (gates, [*everything, before[5]]):
            other, _ = run(changed, backend)
            assert torch.equal(other[:, :place], o[:, :place])
            assert not torch.equal(other[:, place:], o[:, place:])


@pytest.mark.parametrize("length", (1, 2, 63, 64, 65, 129))
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_length_gives_the_final_state_and_the_outputs(backend, length):
    exact = inputs(T=length, K=16, V=24)
    ours = single(exact)
    for a, b in zip(run(ours, backend), run(exact, "recurrent"), strict=True):
        assert a.shape == b.shape
        assert error(a, b) < 1e-5
    for a, b in zip(gradients(ours, backend), gradients(exact, "recurrent"), strict=True):
        assert error(a, b) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_token_at_all_hands_the_state_through(backend):
    tensors = single(inputs(T=0, K=16, V=24))
    o, state = run(tensors, backend)
    assert o.shape == (2, 0, 4, 24)
    assert torch.equal(state, tensors[5])


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences_equal_separate_runs_with_gradients(backend):
    borders = [0, 70, 70, 71, 200, 213]
    packed = single(inputs(B=1, T=213, K=32, V=24, N=5))
    cu_seqlens = torch.tensor(borders)
    o, state = run(packed, backend, cu_seqlens=cu_seqlens)
    grads = gradients(packed, backend, cu_seqlens=cu_seqlens)
    weight = torch.arange(o.numel(), dtype=torch.float64).mul(0.7).cos().view_as(o).float()
    for i, (a, b) in enumerate(pairwise(borders)):
        alone = [x[:, a:b].detach().requires_grad_() for x in packed[:5]]
        alone.append(packed[5][i : i + 1].detach().requires_grad_())
        part, final = run(alone, backend)
        torch.testing.assert_close(part, o[:, a:b], rtol=0, atol=2e-6)
        torch.testing.assert_close(final[0], state[i], rtol=0, atol=2e-6)
        loss = (part * weight[:, a:b]).sum() + final.square().sum() / 2
        pieces = [x[:, a:b] for x in grads[:5]] + [grads[5][i : i + 1]]
        for piece, whole in zip(torch.autograd.grad(loss, alone, materialize_grads=True), pieces, strict=True):
            torch.testing.assert_close(piece, whole, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_grouped_values_equal_repeated_queries_and_keys(backend):
    grouped = single(inputs(T=100, H=2, HV=6, K=16, V=8))
    repeated = [x.detach().repeat_interleave(3, 2) for x in grouped[:2]] + grouped[2:]
    for a, b in zip(run(grouped, backend), run(repeated, backend), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_error_does_not_grow_over_4k_tokens_of_strong_decay(backend):
    exact = [x.detach() for x in inputs("saturated", B=1, T=4096, H=1, HV=1, K=16, V=16)]
    o, _ = run([x.float() for x in exact], backend)
    expected, _ = run(exact, "recurrent")
    first, last = error(o[:, :512], expected[:, :512]), error(o[:, -512:], expected[:, -512:])
    assert last < 1e-6
    assert last < 2 * first


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_a_batch_is_the_row_alone_by_the_bit(backend):
    tensors = [x.detach() for x in single(inputs(B=5, T=150, K=32, V=32))]
    o, state = run(tensors, backend)
    for row in (0, 3):
        part, final = run([x[row : row + 1] for x in tensors], backend)
        assert torch.equal(part[0], o[row])
        assert torch.equal(final[0], state[row])


@pytest.mark.parametrize("border", (64, 128, 37))
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_resumed_from_its_state_is_the_whole_run(backend, border):
    tensors = [x.detach() for x in single(inputs(T=180, K=32, V=32))]
    o, state = run(tensors, backend)
    head, middle = run([*(x[:, :border] for x in tensors[:5]), tensors[5]], backend)
    tail, final = run([*(x[:, border:] for x in tensors[:5]), middle], backend)
    both = torch.cat((head, tail), 1)
    if backend != "chunk" or border % 64 == 0:  # the chunk form promises bits at multiples of its chunk only
        assert torch.equal(both, o)
        assert torch.equal(final, state)
    torch.testing.assert_close(both, o, rtol=0, atol=1e-6)
    torch.testing.assert_close(final, state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", (1, 2, 16, 128))
def test_every_chunk_length_gives_the_same_result(chunk):
    exact = [x.detach() for x in inputs("fifty", T=75, K=16, V=8)]
    expected = run(exact, "recurrent")
    spans = [(0, 75), (75, 75)]
    ours = kda_chunk(*exact[:5], scale=0.25, initial_state=exact[5], spans=spans, chunk=chunk)
    for a, b in zip(ours, expected, strict=True):
        assert error(a, b) < 1e-13


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_in_is_bf16_out_with_an_fp32_state_and_gradients_of_the_inputs_types(backend):
    half = [x.detach().to(torch.bfloat16).requires_grad_() for x in inputs(T=70, K=16, V=8)[:5]]
    o, state = kda(*half, backend=backend)
    exact, _ = kda(*(x.detach().double() for x in half), backend="recurrent")
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert error(o.detach(), exact) < 4e-3  # one rounding to 8 bits at the end
    assert [x.dtype for x in torch.autograd.grad(o.sum(), half)] == [torch.bfloat16] * 5


def test_auto_gives_what_a_named_back_end_gives_and_never_fla():
    tensors = [x.detach() for x in single(inputs(T=70, K=16, V=8))]
    expected = run(tensors, "c" if REASONS["c"] is None else "chunk")
    for a, b in zip(run(tensors, "auto"), expected, strict=True):
        assert torch.equal(a, b)
    doubles = [x.double() for x in tensors]
    assert torch.equal(run(doubles, "auto")[0], run(doubles, "chunk")[0])


def test_without_the_kernel_auto_is_the_chunk_form_and_the_recurrence_for_a_few_tokens(monkeypatch):
    monkeypatch.setenv("FAIRTRIAL_KDA_C", "0")
    for length, name in ((70, "chunk"), (3, "recurrent")):
        tensors = [x.detach() for x in single(inputs(T=length, K=16, V=8))]
        for a, b in zip(run(tensors, "auto"), run(tensors, name), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(UserError, match='backend "c" cannot be used: switched off'):
        run(tensors, "c")


def test_softplus_gate_keeps_the_smallest_decays_and_the_largest():
    z = torch.tensor([-60.0, -17.0, 0.0, 30.0, 100.0]).view(1, 1, 1, 5)
    g = gate_softplus(z, torch.tensor([math.log(2.0)]).view(1, 1, 1, 1), torch.zeros(5)).flatten()
    expected = torch.tensor([-2 * math.log1p(math.exp(x)) for x in (-60.0, -17.0, 0.0, 30.0, 100.0)])
    torch.testing.assert_close(g, expected, rtol=1e-6, atol=0)
    bias = torch.arange(6.0)
    by_head = gate_softplus(torch.zeros(1, 1, 2, 3), torch.tensor([0.0, math.log(4.0)]), bias)
    expected = torch.nn.functional.softplus(bias).view(2, 3) * torch.tensor([[-1.0], [-4.0]])
    torch.testing.assert_close(by_head[0, 0], expected)


@pytest.mark.parametrize("make", (gate_softplus, gate_bounded))
def test_gate_gradients_are_finite_at_both_ends(make):
    z = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4]).view(1, 1, 1, 5).requires_grad_()
    rate, bias = torch.zeros(1, requires_grad=True), torch.zeros(5, requires_grad=True)
    g = make(z, rate, bias)
    assert (g <= 0).all()
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(g.sum(), (z, rate, bias)))


def test_bounded_gate_reaches_its_bound_and_not_beyond():
    z = torch.tensor([-200.0, 0.0, 200.0]).view(1, 1, 1, 3)
    assert gate_bounded(z, torch.zeros(1), torch.zeros(3)).flatten().tolist() == [0.0, -2.5, -5.0]
    assert gate_bounded(z, torch.zeros(1), torch.zeros(3), lower=-2.0).min() == -2.0


def test_l2norm_adds_its_eps_under_the_root():
    x = torch.tensor([[3e-4, 4e-4], [0.0, 0.0], [3.0, 4.0]])
    expected = x.double() / torch.sqrt(x.double().square().sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(l2norm(x).double(), expected, rtol=1e-6, atol=0)


def broken(**changes):
    names = ("q", "k", "v", "g", "beta", "initial_state")
    tensors = dict(zip(names, single(inputs(T=10, H=2, HV=4, K=8, V=6)), strict=True))
    return {**tensors, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"q": torch.zeros(2, 10, 16)}, "q [2, 10, 16]"),
        ({"k": torch.zeros(2, 10, 2, 9)}, "k [2, 10, 2, 9] must be [2, 10, 2, 8]"),
        ({"v": torch.zeros(2, 10, 3, 6)}, "v has 3 heads"),
        ({"g": torch.zeros(2, 10, 2, 8)}, "g [2, 10, 2, 8] must be [2, 10, 4, 8]"),
        ({"beta": torch.zeros(2, 9, 4)}, "beta [2, 9, 4]"),
        ({"initial_state": torch.zeros(2, 4, 6, 8)}, "initial_state [2, 4, 6, 8] must be [2, 4, 8, 6]"),
        ({"cu_seqlens": torch.tensor([0, 10])}, "the batch is 2"),
        ({"backend": "chunks"}, 'did you mean "chunk"'),
        ({"backend": "fla"}, 'backend "fla" cannot be used: it needs'),
    ),
)
def test_bad_input_names_the_tensor_and_the_shape_it_should_have(changes, words):
    if changes.get("backend") == "fla" and REASONS["fla"] is None:
        words = "it needs CUDA tensors, and v is on cpu"
    with pytest.raises(UserError) as raised:
        kda(**broken(**changes))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("borders", ([0, 5, 4, 10], [1, 10], [0, 9], [0], [[0, 10]], [0.0, 4.5, 10.0]))
def test_bad_borders_of_packed_sequences_are_refused(borders):
    q, k, v, g, beta, _ = single(inputs(B=1, T=10, K=8, V=6))
    with pytest.raises(UserError, match="cu_seqlens must rise from 0 to T = 10"):
        kda(q, k, v, g, beta, cu_seqlens=torch.tensor(borders))


def test_gate_parameters_of_the_wrong_size_are_named():
    with pytest.raises(UserError, match="A_log"):
        gate_softplus(torch.zeros(1, 1, 2, 3), torch.zeros(3), torch.zeros(6))
    with pytest.raises(UserError, match="dt_bias"):
        gate_bounded(torch.zeros(1, 1, 2, 3), torch.zeros(2), torch.zeros(3))
    with pytest.raises(UserError, match="lower"):
        gate_bounded(torch.zeros(1, 1, 2, 3), torch.zeros(2), torch.zeros(6), lower=5.0)


def test_a_second_derivative_of_the_chunk_form_is_refused():
    q, k, v, g, beta, s0 = (x.requires_grad_() for x in single(inputs(B=1, T=5, H=1, HV=1, K=4, V=4)))
    o, _ = kda(q, k, v, g, beta, initial_state=s0, backend="chunk")
    with pytest.raises(UserError, match="no second derivative"):
        torch.autograd.grad(o.sum(), q, create_graph=True)
