"""Rotary positions against complex multiplication, in both layouts."""

import math

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.ops.rotary import frequencies, rotate, yarn_frequencies  # noqa: E402


def turned(vector, position, layout, width, base=10_000.0):
    """One vector, pair by pair, as complex numbers."""
    out = [float(x) for x in vector]
    half = width // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + half)
        angle = position * base ** (-2 * i / width)
        z = complex(out[a], out[b]) * complex(math.cos(angle), math.sin(angle))
        out[a], out[b] = z.real, z.imag
    return torch.tensor(out)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_rotation_is_a_complex_product_per_pair_and_leaves_the_rest(layout):
    x = torch.randn(2, 3, 2, 12, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[5, 6, 7], [0, 1, 200]])
    out = rotate(x, positions, layout=layout, width=8)
    for b in range(2):
        for t in range(3):
            for h in range(2):
                want = turned(x[b, t, h], int(positions[b, t]), layout, 8)
                torch.testing.assert_close(out[b, t, h], want, atol=2e-5, rtol=0)
    assert torch.equal(out[..., 8:], x[..., 8:])


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_scores_depend_on_distance_only_and_layouts_differ(layout):
    g = torch.Generator().manual_seed(1)
    q, k = torch.randn(1, 1, 16, generator=g), torch.randn(1, 1, 16, generator=g)

    def score(p, s, kind=layout):
        return float((rotate(q, torch.tensor([p]), layout=kind) * rotate(k, torch.tensor([s]), layout=kind)).sum())

    assert score(40, 30) == pytest.approx(score(1040, 1030), abs=2e-3)
    assert score(40, 30) == pytest.approx(score(10, 0), abs=1e-4)
    assert abs(score(40, 30, "half") - score(40, 30, "interleaved")) > 0.1


def test_the_two_layouts_are_one_rotation_of_reordered_dimensions():
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    positions = torch.arange(4)
    inter = rotate(x, positions, layout="interleaved")
    torch.testing.assert_close(rotate(x[..., order], positions, layout="half"), inter[..., order])


def test_decoding_with_positions_equals_the_whole_sequence_bitwise():
    x = torch.randn(2, 9, 2, 8, generator=torch.Generator().manual_seed(3))
    whole = rotate(x, torch.arange(9), layout="half")
    for t in range(9):
        assert torch.equal(rotate(x[:, t : t + 1], torch.tensor([t]), layout="half"), whole[:, t : t + 1])


def test_low_precision_input_is_rotated_in_fp32():
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(4)).bfloat16()
    positions = torch.tensor([1000, 5000, 30_000])
    out = rotate(x, positions, layout="half")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, rotate(x.float(), positions, layout="half").bfloat16(), atol=0, rtol=0)


def test_yarn_keeps_fast_and_slows_down_slow_frequencies():
    plain, yarn = frequencies(64), yarn_frequencies(64, 10_000.0, 40.0, 4096)
    assert torch.equal(yarn[:8], plain[:8])
    torch.testing.assert_close(yarn[-6:], plain[-6:] / 40)
    assert bool((yarn[1:] <= yarn[:-1]).all())


def test_bad_input_is_named():
    x = torch.zeros(1, 2, 8)
    with pytest.raises(UserError, match='did you mean "interleaved"'):
        rotate(x, torch.arange(2), layout="interleave")
    with pytest.raises(UserError, match="rotary width"):
        rotate(x, torch.arange(2), layout="half", width=7)
    with pytest.raises(UserError, match="positions"):
        rotate(x, torch.arange(3), layout="half")
