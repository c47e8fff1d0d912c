"""Experts: the router's choice, its weights and its bias against plain loops."""

import pytest

torch = pytest.importorskip("torch")

from fairtrial.nn.call import make_call  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.presets import preset  # noqa: E402

SMALL = {"vocab": 50, "hidden": 32, "layers": 2, "pattern": "K", "intermediate": 48, "kda_heads": 1, "kda_key_dim": 16}
MOE = {"experts": 8, "experts_per_token": 3, "expert_intermediate": 24, "route_scale": 2.5}


def moe_of(**changes):
    model = Model(preset("tiny", **(SMALL | MOE | changes)), seed=3)
    with torch.no_grad():
        model.model.layers[1].block_sparse_moe.gate.weight *= 20  # scores well apart
    return model, model.model.layers[1].block_sparse_moe


def run(moe, x_BTD):
    call = make_call(x_BTD.shape[:2], None, None)
    return moe(x_BTD, call, 1), call.aux.expert_load[1]


def inputs(tokens=20):
    return torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(0))


def test_against_a_loop_over_tokens():
    _, moe = moe_of()
    moe.gate.e_score_correction_bias += torch.linspace(-0.3, 0.3, 8)
    x_BTD = inputs()
    got, load = run(moe, x_BTD)
    expected, counts = [], torch.zeros(8)
    for x in x_BTD[0]:
        score = torch.sigmoid(moe.gate.weight @ x)
        chosen = (score + moe.gate.e_score_correction_bias).topk(3).indices
        weight = 2.5 * score[chosen] / score[chosen].sum()
        y = torch.zeros(32)
        for e, w in zip(chosen, weight, strict=True):
            hidden = torch.nn.functional.silu(moe.experts.w1[e] @ x) * (moe.experts.w3[e] @ x)
            y = y + w * (moe.experts.w2[e] @ hidden)
            counts[e] += 1
        s = moe.shared_experts
        shared = torch.nn.functional.silu(s.gate_proj.weight @ x) * (s.up_proj.weight @ x)
        expected.append(y + s.down_proj.weight @ shared)
    assert torch.allclose(got[0], torch.stack(expected), atol=1e-6)
    assert torch.equal(load.float(), counts)
    assert int(load.sum()) == 20 * 3


def test_the_bias_selects_but_does_not_weigh():
    _, moe = moe_of(experts_per_token=8)
    before, _ = run(moe, inputs())
    moe.gate.e_score_correction_bias += torch.linspace(-5, 5, 8)
    after, _ = run(moe, inputs())
    assert torch.allclose(before, after, atol=1e-6)  # all experts are chosen: the bias must not matter
    _, moe = moe_of()
    moe.gate.e_score_correction_bias[6] = 10
    assert run(moe, inputs())[1][6] == 20


def test_updates_of_the_bias_even_out_the_load():
    model, moe = moe_of()
    with torch.no_grad():
        moe.gate.weight[:2] += 0.3  # two experts that everybody likes
    x_BTD = inputs(64) + 0.5

    def spread():
        load = run(moe, x_BTD)[1].float()
        return float((load / load.mean()).max())

    before = spread()
    for step in range(300):
        call = make_call(x_BTD.shape[:2], None, None)
        moe(x_BTD, call, 1)
        model.update_router_bias(call.aux, 0.01 if step < 200 else 0.001)
    assert before > 2.2  # 64 tokens that choose 3 of 8: the mean is 24, the most 64
    assert spread() < 1.3


def test_equal_scores_go_to_the_lower_expert():
    _, moe = moe_of()
    with torch.no_grad():
        moe.gate.weight.zero_()
    assert run(moe, inputs())[1].tolist() == [20, 20, 20, 0, 0, 0, 0, 0]


def test_groups_limit_the_choice():
    _, moe = moe_of(expert_groups=4, expert_topk_groups=2, experts_per_token=4)
    x_BTD = inputs()
    chosen, _ = moe.gate(x_BTD[0], make_call(x_BTD.shape[:2], None, None))
    for x, experts in zip(x_BTD[0], chosen, strict=True):
        score = torch.sigmoid(moe.gate.weight @ x).view(4, 2).sum(1)
        groups = set(score.topk(2).indices.tolist())
        assert {int(e) // 2 for e in experts} == groups


def test_bias_is_saved_but_not_trained():
    model, _ = moe_of()
    name = "model.layers.1.block_sparse_moe.gate.e_score_correction_bias"
    assert name in model.state_dict()
    assert name not in dict(model.named_parameters())


def test_gradients_reach_router_and_chosen_experts():
    _, moe = moe_of()
    run(moe, inputs())[0].square().sum().backward()
    assert moe.gate.weight.grad.abs().sum() > 0
    assert moe.experts.w1.grad.abs().sum((1, 2)).gt(0).any()
