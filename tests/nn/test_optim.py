"""Optimisers and schedules: what is decayed, the per-head split, clipping, and rates that are functions of the step."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.muon import Muon, muon_update, orthogonalise  # noqa: E402
from fairtrial.nn.optim import clip, load_state_tensors, mark, optimisers, set_rate, state_tensors  # noqa: E402
from fairtrial.nn.schedule import OptimConfig, Schedule, factor, first_changed  # noqa: E402


class Small(torch.nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(11, 8)
        self.q_proj = torch.nn.Linear(8, 12, bias=True)
        self.norm = torch.nn.LayerNorm(8)
        self.A_log = torch.nn.Parameter(torch.zeros(1, 1, 3, 1))
        self.gate = torch.nn.Parameter(torch.zeros(3, 4))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        mark(self.q_proj.weight, head_rows=(4,))
        mark(self.gate, no_decay=True)


def spectrum(matrix: torch.Tensor) -> tuple[float, float]:
    values = torch.linalg.svdvals(matrix.double())
    return float(values.min()), float(values.max())


def test_singular_values_of_each_heads_block_are_one_and_of_the_whole_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    # Four heads read almost the same directions with very different strengths: the whole matrix is ill conditioned.
    shared = torch.randn(1, 8, 32, generator=generator)
    heads = shared * torch.tensor([1.0, 0.1, 10.0, 0.01])[:, None, None]
    grad = (heads + 1e-3 * heads.norm() * torch.randn(4, 8, 32, generator=generator)).reshape(32, 32)
    split, whole = muon_update(grad, (8,)), muon_update(grad)
    for head in range(4):
        low, high = spectrum(split[8 * head : 8 * head + 8])
        assert low > 0.6 and high < 1.3, (head, low, high)
    assert spectrum(whole)[1] < 1.3
    assert spectrum(split)[1] > 1.6


def test_keys_and_values_of_one_head_are_blocks_of_their_own_with_their_own_scale() -> None:
    grad = torch.randn(2 * (4 + 16), 8, generator=torch.Generator().manual_seed(2))
    update = muon_update(grad, (4, 16)).view(2, 20, 8)
    assert torch.allclose(update[1, :4], orthogonalise(grad.view(2, 20, 8)[1, :4]), atol=1e-5)
    assert torch.allclose(update[1, 4:], orthogonalise(grad.view(2, 20, 8)[1, 4:]) * 2**0.5, atol=1e-5)


def test_orthogonalising_keeps_the_singular_vectors_and_zero() -> None:
    grad = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    left, _, right = torch.linalg.svd(grad, full_matrices=False)
    inner = left.T @ orthogonalise(grad) @ right.T
    assert float((inner - torch.diag(torch.diagonal(inner))).abs().max()) < 1e-4
    assert torch.equal(orthogonalise(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_weight_decay_spares_norms_biases_gates_and_embeddings() -> None:
    model = Small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimiser in optimisers(model, OptimConfig(weight_decay=0.5, lr=0.1)):
        optimiser.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"q_proj.weight"}
    for optimiser in optimisers(model, OptimConfig(weight_decay=0.5, lr=0.1, decay_embeddings=True)):
        optimiser.step()
    assert not torch.equal(model.embed_tokens.weight, before["embed_tokens.weight"])


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model = Small()
    muon, adam = optimisers(model, OptimConfig(kind="muon"))
    assert isinstance(muon, Muon)
    assert [tuple(p.shape) for g in muon.param_groups for p in g["params"]] == [(12, 8)]
    assert muon.param_groups[0]["sections"] == (4,)
    assert sum(p.numel() for o in (muon, adam) for g in o.param_groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )
    with pytest.raises(UserError, match="does not divide into heads of 5 rows"):
        Muon([{"params": [model.q_proj.weight], "sections": (5,)}])
    with pytest.raises(UserError, match="every one is frozen"):
        optimisers(model.requires_grad_(False), OptimConfig())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_survives_a_round_trip_bit_for_bit(kind: str) -> None:
    def steps(model: Small, opts: list[torch.optim.Optimizer], seeds: range) -> None:
        for seed in seeds:
            set_rate(opts, 1 / (seed + 1))
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            for optimiser in opts:
                optimiser.step()

    config = OptimConfig(kind=kind)
    whole, halted = Small(), Small()
    one, two = optimisers(whole, config), optimisers(halted, config)
    steps(whole, one, range(6))
    steps(halted, two, range(3))
    saved = {k: v.clone() for k, v in state_tensors(two, {p: n for n, p in halted.named_parameters()}).items()}
    fresh = Small(seed=5)
    fresh.load_state_dict(halted.state_dict())
    names = {p: n for n, p in fresh.named_parameters()}
    three = optimisers(fresh, config)
    load_state_tensors(three, names, saved)
    steps(fresh, three, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))
    with pytest.raises(UserError, match=r"nowhere/exp_avg belongs to no parameter"):
        load_state_tensors(optimisers(fresh, config), names, {**saved, "nowhere/exp_avg": torch.zeros(1)})


def test_clipping_reports_the_norm_before_and_leaves_a_broken_gradient_alone() -> None:
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip([first, second], 0.0) == pytest.approx(5.0)
    assert clip([first, second], 1.0) == pytest.approx(5.0)
    assert first.grad[0] == pytest.approx(0.6) and second.grad[0] == pytest.approx(0.8)
    second.grad = torch.tensor([float("nan")])
    assert clip([first, second], 1.0) != clip([first, second], 1.0)
    assert first.grad[0] == pytest.approx(0.6)


def test_wsd_warms_up_stays_and_falls_to_zero() -> None:
    schedule = Schedule(warmup=4, decay=5)
    rates = [factor(schedule, step, 20) for step in range(21)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and set(rates[4:16]) == {1.0}
    assert rates[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_wsd_is_extended_and_branched_from_any_checkpoint_of_its_stable_phase() -> None:
    schedule = Schedule(warmup=4, decay=5)
    assert first_changed(schedule, 20, 40) == 16
    assert first_changed(schedule, 40, 20) == 16
    assert all(factor(schedule, step, 20) == factor(schedule, step, 40) for step in range(16))
    assert first_changed(Schedule(kind="cosine", warmup=4), 20, 40) == 5


def test_cosine_falls_to_its_floor() -> None:
    schedule = Schedule(kind="cosine", warmup=2, floor=0.1)
    rates = [factor(schedule, step, 12) for step in range(13)]
    assert rates[0] == 0.5 and rates[2] == 1.0 and rates[7] == pytest.approx(0.55) and rates[12] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    with pytest.raises(ValueError, match='"decay" belongs to kind = "wsd"'):
        Schedule(kind="cosine", decay=3)
