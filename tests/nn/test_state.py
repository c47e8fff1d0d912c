"""The decode state: resuming, branching, rolling back, its bytes. An agent's second turn equals one long prompt."""

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.presets import preset  # noqa: E402

SMALL = {
    "vocab": 60, "hidden": 48, "layers": 4, "intermediate": 64, "heads": 2, "kv_heads": 1, "head_dim": 16,
    "kda_heads": 2, "kda_key_dim": 16, "kda_gate_rank": 8, "kv_rank": 24, "nope_dim": 16, "rope_dim": 8,
    "mla_value_dim": 16, "index_heads": 2, "index_dim": 8, "index_topk": 5, "window": 6,
}  # fmt: skip
PATTERNS = ["KKKD", "KKKM", "FFFF", "WPDS", "GNCK", "KDDS pooled", "WFPF conv"]
MORE = {"pooled": {"index_pool": 4, "index_topk": 8}, "conv": {"softmax_conv": True}, "": {}}


def small(pattern, **changes):
    letters, _, more = pattern.partition(" ")
    return Model(preset("tiny", **(SMALL | MORE[more] | {"pattern": letters} | changes)), seed=1).eval()


def tokens(batch=2, time=24, seed=0):
    return torch.randint(0, 60, (batch, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read(model, tokens_BT, state=None, **how):
    return model(tokens_BT, model.init_state(len(tokens_BT)) if state is None else state, exact=True, **how)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_second_turn_after_a_snapshot_on_disk(pattern, tmp_path):
    """Indexer keys, conv tails and states all have to be in the file: the selection is tighter than the context."""
    model, text = small(pattern), tokens()
    whole = read(model, text)
    first = read(model, text[:, :15])
    safetensors_torch.save_file(first.state.snapshot(), tmp_path / "turn1.safetensors")
    state = model.init_state(1).restore(safetensors_torch.load_file(tmp_path / "turn1.safetensors"))
    second = read(model, text[:, 15:], state)
    assert torch.equal(second.logits, whole.logits[:, 15:])
    assert second.state.positions == [24, 24]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_branches_share_the_past_and_nothing_else(pattern):
    model, text = small(pattern), tokens()
    state = read(model, text[:, :10]).state.branch(3)
    more = tokens(6, 8, seed=2)
    joint = read(model, more, state).logits
    for row in range(6):
        alone = read(model, torch.cat([text[row // 3, :10], more[row]])[None]).logits[:, 10:]
        assert torch.equal(joint[row : row + 1], alone)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_state_is_never_changed_by_reading_on(pattern):
    """Two continuations of one state: the second must not see what the first wrote."""
    model, text = small(pattern), tokens()
    state = read(model, text[:, :8]).state
    state = read(model, text[:, 8:12], state).state  # the caches now have room behind their end
    left, right = tokens(2, 6, seed=3), tokens(2, 6, seed=4)
    first = read(model, left, state)
    other = read(model, right, state)
    later = read(model, text[:, :3], first.state).logits
    assert torch.equal(later, read(model, torch.cat([text[:, :12], left, text[:, :3]], 1)).logits[:, -3:])
    assert not torch.equal(other.logits, first.logits)
    assert torch.equal(read(model, left, state).logits, first.logits)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_clone_shares_no_memory(pattern):
    model, text = small(pattern), tokens()
    state = read(model, text[:, :9]).state
    copy = state.clone()
    expected = read(model, text[:, 9:], copy).logits
    for layer in state.layers:
        for value in layer.values():
            (value if isinstance(value, torch.Tensor) else value.tensor()).zero_()
    assert torch.equal(read(model, text[:, 9:], copy).logits, expected)


def test_rollback_of_caches_of_keys():
    model, text = small("FPMD"), tokens()
    state = read(model, text).state.rollback(11)
    assert state.positions == [11, 11]
    other = tokens(2, 5, seed=7)
    expected = read(model, torch.cat([text[:, :11], other], 1)).logits[:, 11:]
    assert torch.equal(read(model, other, state).logits, expected)


def test_rollback_of_kda_needs_a_kept_state():
    model, text = small("KKKD"), tokens()
    early = read(model, text[:, :10]).state
    state = read(model, text[:, 10:], early).state
    with pytest.raises(UserError, match=r"rollback\(15\).*state = state.keep\(\)"):
        state.rollback(15)
    state = read(model, text[:, 10:], early.keep()).state
    back = state.rollback(15)
    assert back.positions == [10, 10]
    expected = read(model, text).logits[:, 10:]
    assert torch.equal(read(model, text[:, 10:], back).logits, expected)
    with pytest.raises(UserError, match="at or before 9"):
        state.rollback(9)
    with pytest.raises(UserError, match="between 0 and 24"):
        state.rollback(25)


def test_rollback_of_pooled_keys_goes_to_what_was_kept():
    """The open pool of an earlier place is gone, so a pooled indexer rolls back as KDA does."""
    model, text = small("DDSM pooled"), tokens()
    early = read(model, text[:, :10]).state
    with pytest.raises(UserError, match=r"rollback\(12\).*state = state.keep\(\)"):
        read(model, text[:, 10:], early).state.rollback(12)
    back = read(model, text[:, 10:], early.keep()).state.rollback(12)
    assert back.positions == [10, 10]
    other = tokens(2, 9, seed=8)
    expected = read(model, torch.cat([text[:, :10], other], 1)).logits[:, 10:]
    assert torch.equal(read(model, other, back).logits, expected)


def test_rollback_of_a_window_that_dropped_rows():
    model, text = small("W"), tokens()
    with pytest.raises(UserError, match="was kept"):
        read(model, text).state.rollback(10)
    assert read(model, text[:, :5]).state.rollback(3).positions == [3, 3]


def test_select_keeps_the_order_asked_for():
    model, text = small("KKKD"), tokens(3)
    state = read(model, text[:, :12]).state
    picked = read(model, text[[2, 0], 12:], state.select([2, 0])).logits
    assert torch.equal(picked, read(model, text).logits[[2, 0], 12:])
    with pytest.raises(UserError, match="sequence 3 does not exist"):
        state.select([3])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_are_those_of_the_formula(pattern, batch):
    model = small(pattern)
    for context in (3, 17, 90):
        state = model.init_state(batch)
        with torch.no_grad():
            state = model(tokens(batch, context), state).state
            assert state.nbytes == model.config.cache_bytes(context, batch)
            stored = state.snapshot()
        held = sum(t.nbytes for name, t in stored.items() if not name.endswith((".lengths", ".first")))
        assert held == state.nbytes
        assert state.nbytes <= state.allocated


def test_room_for_growth_is_an_eighth_at_most():
    model = small("FFFF")
    state = model.init_state(1)
    with torch.no_grad():
        state = model(tokens(1, 1000), state).state
        for t in range(4):
            state = model(tokens(1, 1, seed=t), state).state
    assert state.allocated <= 1.13 * state.nbytes


def test_a_snapshot_of_another_model_is_refused_by_name():
    model = small("KKKD")
    state = read(model, tokens()).state
    stored = state.snapshot()
    missing = {name: tensor for name, tensor in stored.items() if name != "layers.3.index_keys"}
    with pytest.raises(UserError, match=r'"layers.3.index_keys" is missing'):
        model.init_state(1).restore(missing)
    with pytest.raises(UserError, match=r'"layers.9.S" belongs to no layer'):
        model.init_state(1).restore(stored | {"layers.9.S": stored["layers.0.S"]})
    with pytest.raises(UserError, match=r'"layers.0.S" is torch.float32 \[2, 2, 16, 8\]'):
        model.init_state(1).restore(stored | {"layers.0.S": stored["layers.0.S"][..., :8]})
    with pytest.raises(UserError, match="branch or split"):
        model(tokens(3, 2), state)
    with pytest.raises(UserError, match=r"branch\(0\)"):
        state.branch(0)
