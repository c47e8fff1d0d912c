"""Drafting with the MTP block: the same tokens as without, the same distribution, and the state afterwards."""

import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.ops.kda import backends  # noqa: E402
from fairtrial.nn.presets import preset  # noqa: E402
from fairtrial.nn.speculate import Speculator, accepted, greedy, tempered  # noqa: E402

SMALL = {
    "vocab": 40, "hidden": 48, "layers": 4, "intermediate": 64, "heads": 2, "kv_heads": 1, "head_dim": 16,
    "kda_heads": 2, "kda_key_dim": 16, "kda_gate_rank": 8, "kv_rank": 24, "nope_dim": 16, "rope_dim": 8,
    "mla_value_dim": 16, "index_heads": 2, "index_dim": 8, "index_topk": 8, "window": 6, "mtp_steps": 3,
}  # fmt: skip
KINDS = {"KKKD": {}, "KKKM": {}, "FFFF": {}, "WDSP": {}, "KDKD": {"index_pool": 4}, "MKGC": {}}


def small(pattern="KKKM", **changes):
    fields = SMALL | KINDS.get(pattern, {}) | {"pattern": pattern} | changes
    return Model(preset("tiny", **fields), seed=1).eval()


def sharpened(pattern):
    """Large weights, so that what comes next depends on what came before."""
    model = small(pattern)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter *= 4
    return model


@torch.no_grad()
def plain(model, prompt, count, **how):
    """Greedy decoding, one token at a time."""
    state, text = model.init_state(1), list(prompt)
    output = model(torch.tensor([text]), state, **how)
    for _ in range(count):
        text.append(int(output.logits[0, -1].argmax()))
        output = model(torch.tensor([text[-1:]]), output.state, **how)
    return text[len(prompt) :]


def taught(pattern, steps=120):
    """A model and a text that it knows by heart, MTP as well."""
    model = small(pattern).train()
    text = torch.randint(0, 40, (1, 48), generator=torch.Generator().manual_seed(3))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        out = model(text)
        loss = functional.cross_entropy(out.logits[0, :-1], text[0, 1:])
        for step, logits in enumerate(out.aux.mtp_logits):
            loss = loss + functional.cross_entropy(logits[0, : -2 - step], text[0, 2 + step :])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), text[0].tolist()


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.parametrize("drafts", [1, 4])
def test_greedy_tokens_are_those_of_plain_decoding(pattern, drafts):
    if backends()["c"] is not None:
        pytest.skip(backends()["c"])
    model, how = sharpened(pattern), {"exact": True, "backend": "c"}
    for prompt in ([7], [3, 1], list(range(13))):
        expected = plain(model, prompt, 21, **how)
        assert len(set(expected)) >= 2
        speculator = Speculator(model, drafts, **how)
        speculator.read(prompt)
        spoken = speculator.generate(21)
        assert spoken.tokens == expected
        assert sum(spoken.rounds) == 21
        assert all(1 <= size <= drafts + 1 for size in spoken.rounds)


@pytest.mark.parametrize("pattern", ["KKKD", "FFMM"])
def test_a_text_known_by_heart_is_drafted_rightly(pattern):
    """Several tokens for one pass, and the same as without drafts; a second turn goes on from there."""
    model, text = taught(pattern)
    speculator = Speculator(model, 3)
    speculator.read(text[:10])
    spoken = speculator.generate(16)
    assert spoken.tokens == text[10:26] == plain(model, text[:10], 16)
    assert spoken.accept_length > 3
    assert spoken.drafted >= sum(spoken.rounds) - len(spoken.rounds)
    speculator.read(text[26:30])
    again = speculator.generate(12)
    assert again.tokens == text[30:42] == plain(model, text[:30], 12)
    assert again.accept_length > 3
    state = speculator.state()
    assert state.positions == [41]
    with torch.no_grad():
        logits = model(torch.tensor([text[41:42]]), state).logits
        whole = model(torch.tensor([text[:42]])).logits[:, -1:]
    assert torch.allclose(logits, whole, atol=1e-4)


def test_drafts_come_from_what_training_computed():
    """The first drafts of a round are the model's own MTP logits in one forward pass over the whole text."""
    model = sharpened("KKKD")
    text = torch.randint(0, 40, (1, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        steps = model(text, mtp=True).aux.mtp_logits
    speculator = Speculator(model, 3)
    for end in (4, 9, 18):
        speculator.read(text[0, len(speculator.tokens) : end].tolist())
        ids, _ = speculator._draft(3, greedy, None)
        assert ids[0] == int(steps[0][0, end - 2].argmax())
        assert speculator.tokens == text[0, :end].tolist()
        known = torch.cat([text[:, :end], torch.tensor([ids])], 1)
        with torch.no_grad():
            whole = model(known, mtp=True).aux.mtp_logits
        assert ids == [int(whole[step][0, end - 2].argmax()) for step in range(3)]


def test_a_stop_token_ends_it_and_stays():
    model, text = taught("KKKD")
    place = next(i for i in range(12, 20) if text[i] not in text[10:i])
    speculator = Speculator(model, 3)
    speculator.read(text[:10])
    assert speculator.generate(20, stop={text[place]}).tokens == text[10 : place + 1]
    assert speculator.state().positions == [place]
    assert speculator.generate(5).tokens == text[place + 1 : place + 6]


def chi_square(counts, odds):
    expected = odds * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_rejection_gives_the_models_distribution_whatever_is_drafted():
    """10,000 draws over 6 tokens, for drafts near and far; 25.7 is chi-square's 0.01 % point with 5 degrees."""
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], dtype=torch.float64)
    for q in (p.flip(0), torch.full((6,), 1 / 6, dtype=torch.float64), p, torch.eye(6, dtype=torch.float64)[1]):
        drawn = torch.multinomial(q, 10_000, replacement=True, generator=generator).tolist()
        target = torch.stack([p, p])
        first = [accepted(target, [q], [draft], generator)[0] for draft in drawn]
        assert chi_square(torch.bincount(torch.tensor(first), minlength=6), p) < 25.7
    # And a rule that takes every draft would be noticed.
    taken = torch.tensor(torch.multinomial(p.flip(0), 10_000, replacement=True, generator=generator).tolist())
    assert chi_square(torch.bincount(taken, minlength=6), p) > 100


def test_sampled_pairs_are_distributed_as_the_model_says():
    """Two tokens over a vocabulary of 4, from the drafts to the text: 16 cells, 44.3 is the 0.01 % point."""
    model = small("KM", vocab=4, layers=2, hidden=16, intermediate=16, mtp_steps=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(6)
        prompt = [1, 3, 2]
        shape = tempered(1.5)
        first = shape(model(torch.tensor([prompt])).logits[0, -1])
        second = torch.stack([shape(model(torch.tensor([[*prompt, x]])).logits[0, -1]) for x in range(4)])
    odds = (first[:, None] * second).flatten()
    assert odds.min() > 0.002 and odds.max() < 0.6
    generator = torch.Generator().manual_seed(0)
    counts, rounds = torch.zeros(16), []
    for _ in range(700):
        speculator = Speculator(model, 2)
        speculator.read(prompt)
        spoken = speculator.generate(2, shape=shape, generator=generator)
        counts[4 * spoken.tokens[0] + spoken.tokens[1]] += 1
        rounds.append(len(spoken.rounds))
    assert chi_square(counts, odds) < 44.3
    assert {1, 2} == set(rounds)  # some drafts were taken and some were not


def test_bad_input_is_named():
    with pytest.raises(UserError, match="no multi-token prediction"):
        Speculator(small(mtp_steps=0), 2)
    with pytest.raises(UserError, match="drafts: must be at least 0"):
        Speculator(small(), -1)
    with pytest.raises(UserError, match="read at least one token"):
        Speculator(small(), 1).generate(3)
    with pytest.raises(UserError, match="temperature: must be above 0"):
        tempered(0.0)
    speculator = Speculator(small(), 1)
    speculator.read([1, 2])
    with pytest.raises(UserError, match="needs a generator"):
        speculator.generate(3, shape=tempered(1.0))
