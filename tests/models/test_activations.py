"""Hooks read what a manual hook reads, change only what they are told to, and leave nothing behind."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.activations import Edit, Site, activations, site_width, tapped  # noqa: E402
from fairtrial.models.model import Request, Sampling  # noqa: E402
from fairtrial.models.native.kind import NativeSettings  # noqa: E402
from fairtrial.models.native.model import NativeModel  # noqa: E402
from fairtrial.nn.config import ModelConfig  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402

torch.set_num_threads(1)
WIDTH, VOCAB = 32, 50


def native(**more):
    config = ModelConfig(
        hidden=WIDTH, layers=4, pattern="KFMD", vocab=VOCAB, intermediate=48, heads=2, head_dim=8, kda_heads=2,
        kda_key_dim=8, kda_gate_rank=8, index_topk=4, **more,
    )  # fmt: skip
    return Model(config, seed=3).eval()


def mixture():
    return native(experts=4, experts_per_token=2, expert_intermediate=16)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2():
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


MODELS = {"native": native, "llama": llama, "gpt2": gpt2}
HEADS = {"native": 2, "llama": 4, "gpt2": 4}
SITES = [Site(1), Site(0, "attention"), Site(1, "mlp"), Site(1, "attention", head=1), Site(0, "attention", head=0)]


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]()


def tokens(batch=2, time=9, seed=0):
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


def logits(model, ids, **more):
    with torch.no_grad():
        return model(ids, **more).logits


def test_reading_is_what_a_manual_hook_sees(model):
    block = model.model.layers[1] if hasattr(model, "model") else model.transformer.h[1]
    seen = []
    handle = block.register_forward_hook(lambda m, a, out: seen.append(out if torch.is_tensor(out) else out[0]))
    plain = logits(model, tokens())
    handle.remove()
    with activations(model, reads=SITES) as taken:
        assert torch.equal(logits(model, tokens()), plain)
    assert torch.equal(taken[Site(1)], seen[0])
    assert taken.positions(Site(1)).tolist() == [list(range(9))] * 2
    for site in SITES:
        assert taken[site].shape == (2, 9, site_width(model, site))


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_its_parts_and_heads_make_the_attention(name):
    model = MODELS[name]()
    heads = [Site(1, "attention", head=h) for h in range(HEADS[name])]
    parts = [Site(0), Site(1), Site(1, "attention"), Site(1, "mlp")]
    with activations(model, reads=parts + heads) as taken:
        logits(model, tokens())
    whole = taken[Site(0)] + taken[Site(1, "attention")] + taken[Site(1, "mlp")]
    torch.testing.assert_close(whole, taken[Site(1)], rtol=1e-5, atol=1e-6)
    attention = model.model.layers[1].self_attn if hasattr(model, "model") else model.transformer.h[1].attn
    together = torch.cat([taken[h] for h in heads], -1)
    if hasattr(attention, "o_proj"):
        projected = together @ attention.o_proj.weight.T
    else:
        projected = together @ attention.c_proj.weight + attention.c_proj.bias
    torch.testing.assert_close(projected, taken[Site(1, "attention")], rtol=1e-5, atol=1e-6)


def test_hooks_leave_no_trace_even_after_an_error(model):
    plain = logits(model, tokens())
    keys = {name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks}
    with pytest.raises(RuntimeError), activations(model, SITES, [Edit(Site(0), None, torch.ones(WIDTH))]):
        assert not torch.equal(logits(model, tokens()), plain)
        raise RuntimeError
    assert torch.equal(logits(model, tokens()), plain)
    assert keys == {name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks}


def test_adding_zero_and_replacing_by_itself_change_no_bit(model):
    plain = logits(model, tokens())
    for site in SITES:
        zero = Edit(site, [0, 4], torch.zeros(site_width(model, site)))
        same = Edit(site, None, lambda x: x, op="replace")
        with activations(model, edits=[zero, same]):
            assert torch.equal(logits(model, tokens()), plain)


@pytest.mark.parametrize(("op", "site"), list(product(["add", "replace"], SITES)), ids=str)
def test_an_edit_changes_nothing_before_its_position_and_in_other_rows(model, op, site):
    plain = logits(model, tokens())
    value = torch.full((site_width(model, site),), 3.0)
    with activations(model, [site], [Edit(site, [5], value, op=op, scale=2.0, rows=[1])]) as taken:
        edited = logits(model, tokens())
    with activations(model, [site]) as before:
        logits(model, tokens())
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1, :5], plain[1, :5])
    assert not torch.equal(edited[1, 5:], plain[1, 5:])
    wanted = before[site][1, 5] + 6.0 if op == "add" else torch.full_like(value, 6.0)
    assert torch.equal(taken[site][1, 5], wanted)
    untouched = [i for i in range(9) if i != 5]
    if site.place == "attention" and site.layer == 0:
        assert torch.equal(taken[site][1, untouched], before[site][1, untouched])


def test_one_row_of_values_for_each_position(model):
    values = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    with activations(model, [Site(0)], [Edit(Site(0), [6, 2], values, op="replace")]) as taken:
        logits(model, tokens())
    assert torch.equal(taken[Site(0)][:, [6, 2]], values.expand(2, 2, WIDTH))


def test_cached_decoding_counts_positions_from_the_start_of_the_sequence():
    edit = Edit(Site(1), [3, 6], torch.ones(WIDTH), scale=4.0)
    ids = tokens()
    for make in (native, llama, gpt2):
        model = make()
        with activations(model, [Site(1)], [edit]) as whole:
            wanted = logits(model, ids)
        with activations(model, [Site(1)], [edit]) as taken, torch.no_grad():
            state = model.init_state(2) if make is native else None
            parts = []
            for piece in (ids[:, :5], ids[:, 5:6], ids[:, 6:7], ids[:, 7:]):
                if make is native:
                    out = model(piece, state)
                    state = out.state
                else:
                    out = model(piece, past_key_values=state, use_cache=True)
                    state = out.past_key_values
                parts.append(out.logits)
        torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(taken[Site(1)], whole[Site(1)], rtol=1e-4, atol=1e-5)
        assert [part.shape[1] for part in taken.passes(Site(1))] == [5, 1, 1, 2]
        assert taken.positions(Site(1)).tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("exact", [True, False])
def test_a_native_model_is_hooked_while_it_answers(exact: bool):
    tokenizer = Tokenizer.train(["hello world " * 20], vocab_size=290)
    config = ModelConfig(
        hidden=WIDTH, layers=2, pattern="KF", vocab=tokenizer.vocab_size, intermediate=48, heads=2, head_dim=8,
        kda_heads=2, kda_key_dim=8, init_std=0.2,
    )  # fmt: skip
    settings = NativeSettings(path="-", exact=exact)
    request = Request(prompt="hello world " * 40, sampling=Sampling(temperature=0, max_tokens=6))
    edit = Edit(Site(0), None, torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)), scale=30.0)

    async def main():
        model = NativeModel(Model(config), tokenizer, settings, name="m", weights_version=None)
        plain = await model.generate(request)
        with activations(model.net, [Site(0)], [edit]) as taken:
            assert tapped(model.net.modules())
            edited = await model.generate(request)
        after = await model.generate(request)  # nothing of the edited run is anybody's prefix
        assert not tapped(model.net.modules())
        await model.close()
        return plain, edited, after, taken.positions(Site(0))[0].tolist()

    plain, edited, after, positions = asyncio.run(main())
    assert edited.completion_ids != plain.completion_ids == after.completion_ids
    assert positions == list(range(len(edited.prompt_ids) + len(edited.completion_ids) - 1))


def test_padding_has_no_position():
    model, ids = llama(), tokens(1, 6)
    with activations(model, [Site(1)], [Edit(Site(0), [2], torch.ones(WIDTH), scale=5.0)]) as alone:
        wanted = logits(model, ids)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with activations(model, [Site(1)], [Edit(Site(0), [2], torch.ones(WIDTH), scale=5.0)]) as taken:
        got = logits(model, padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(got[:, 3:], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken[Site(1)][:, 3:], alone[Site(1)], rtol=1e-4, atol=1e-5)
    assert taken.positions(Site(1)).tolist() == [[-1] * 3 + list(range(6))]


def test_packed_documents_are_rows_of_their_own():
    model, ids = native(), tokens(1, 9)
    borders = torch.tensor([0, 4, 9])
    site = Site(1, "attention", head=0)
    edit = Edit(site, [1], torch.ones(site_width(model, site)), rows=[1], scale=3.0)
    with torch.no_grad(), activations(model, [site]) as before:
        plain = model(ids, cu_seqlens=borders).logits
    with torch.no_grad(), activations(model, [site], [edit]) as taken:
        edited = model(ids, cu_seqlens=borders).logits
    assert taken.positions(site).tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    changed = (taken[site] != before[site]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [5]
    assert torch.equal(edited[:, :5], plain[:, :5])


def test_exact_passes_and_selections_survive_the_tap():
    """A D layer's selection is noted in the pass; a head's hook must not lose it for recordings."""
    model, ids = native(), tokens()
    plain, tapped = {}, {}
    with torch.no_grad():
        wanted = model(ids, record=plain, exact=True).logits
        with activations(model, [Site(3, "attention", head=0)]):
            got = model(ids, record=tapped, exact=True).logits
    assert torch.equal(got, wanted)
    assert torch.equal(plain[3], tapped[3])


def test_nested_contexts_add_up(model):
    site = Site(1, "attention", head=1)
    one, two = (torch.randn(site_width(model, site), generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    with activations(model, [site]) as before:
        logits(model, tokens())
    with activations(model, edits=[Edit(site, [4], one)]), activations(model, [site], [Edit(site, [4], two)]) as taken:
        logits(model, tokens())
    assert torch.equal(taken[site][:, 4], before[site][:, 4] + one + two)


def test_experts_are_read_and_edited_like_any_mlp():
    model = mixture()
    with activations(model, [Site(0), Site(1), Site(1, "attention"), Site(1, "mlp")]) as taken:
        plain = logits(model, tokens(), exact=True)
    whole = taken[Site(0)] + taken[Site(1, "attention")] + taken[Site(1, "mlp")]
    torch.testing.assert_close(whole, taken[Site(1)], rtol=1e-5, atol=1e-6)
    with activations(model, edits=[Edit(Site(1, "mlp"), [5], torch.zeros(WIDTH), op="replace")]):
        edited = logits(model, tokens(), exact=True)
    assert torch.equal(edited[:, :5], plain[:, :5])
    assert not torch.equal(edited[:, 5:], plain[:, 5:])


def test_gradients_reach_the_value_of_an_edit(model):
    value = torch.zeros(WIDTH, requires_grad=True)
    with activations(model, [Site(1)], [Edit(Site(0), [3], value)], graph=True) as taken:
        model(tokens())
    taken[Site(1)][:, :3].sum().backward(retain_graph=True)
    assert float(value.grad.abs().sum()) == 0
    taken[Site(1)][:, 3].square().sum().backward()
    assert float(value.grad.abs().sum()) > 0


def test_an_adapter_is_no_obstacle():
    peft = pytest.importorskip("peft")
    model = llama()
    with activations(model, [Site(1, "attention", head=2)]) as plain:
        logits(model, tokens())
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"])).eval()
    with activations(adapted, [Site(1, "attention", head=2)]) as taken:
        logits(adapted, tokens())
    assert torch.equal(taken[Site(1, "attention", head=2)], plain[Site(1, "attention", head=2)])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit(Site(9), None, torch.ones(WIDTH)), "layers 0 to"),
        (Edit(Site(0), [1], torch.ones(WIDTH + 1)), "edits[0].value has shape [33]"),
        (Edit(Site(0), [1, 2], torch.ones(3, WIDTH)), "needs [32] or [2, 32]"),
        (Edit(Site(0), [-1], torch.ones(WIDTH)), "edits[0].positions: -1 is negative"),
        (Edit(Site(0), [1, 1], torch.ones(2, WIDTH)), "named twice"),
        (Edit(Site(0, "mlp", head=0), None, torch.ones(WIDTH)), 'only place "attention" has heads'),
        (Edit(Site(0, "attention", head=64), None, torch.ones(WIDTH)), "the layer has heads 0 to"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_runs(model, edit, words):
    with pytest.raises(UserError) as caught, activations(model, edits=[edit]):
        pass
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_modules_are_refused():
    with pytest.raises(UserError, match="no list of decoder layers"), activations(torch.nn.Linear(2, 2)):
        pass
