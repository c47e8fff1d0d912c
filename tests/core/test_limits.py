"""Limits and the meter: caps hold, what was spent stays counted."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.errors import LimitExceeded
from fairtrial.core.limits import Limits, Meter, Usage

usages = st.builds(
    Usage,
    calls=st.integers(0, 5),
    input_tokens=st.integers(0, 1000),
    output_tokens=st.integers(0, 1000),
    cached_tokens=st.integers(0, 1000),
    cost_usd=st.integers(0, 100).map(lambda cents: cents / 4),
)


@given(st.lists(usages, max_size=12), st.integers(0, 5000), st.integers(0, 20))
def test_the_meter_raises_at_the_first_charge_above_a_cap_and_counts_it(charges, tokens, calls):
    meter, spent, raised = Meter(Limits(tokens=tokens, calls=calls)), Usage(), False
    for charge in charges:
        spent = spent + charge
        try:
            meter.charge(charge)
        except LimitExceeded as error:
            raised = True
            assert error.limit == ("calls" if spent.calls > calls else "tokens")
            break
        assert spent.tokens <= tokens and spent.calls <= calls
    assert meter.usage == spent
    assert raised == (spent.tokens > tokens or spent.calls > calls)


def test_exactly_at_the_cap_is_allowed():
    meter = Meter(Limits(calls=2, cost_usd=1.0))
    meter.charge(Usage(calls=2, cost_usd=1.0))
    with pytest.raises(LimitExceeded, match="limit on cost_usd"):
        meter.charge(Usage(cost_usd=0.01))


def test_no_caps_no_limit_and_a_cap_of_zero_allows_nothing():
    Meter(Limits()).charge(Usage(calls=10**9, cost_usd=1e9))
    with pytest.raises(LimitExceeded):
        Meter(Limits(calls=0)).charge(Usage(calls=1))


def test_seconds_are_compared_too():
    assert Limits(seconds=10).exceeded_by(Usage(), 10.0) is None
    assert Limits(seconds=10).exceeded_by(Usage(), 10.1) == "seconds"


@given(usages, usages, usages)
def test_usage_adds_up_in_any_grouping(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert (a + b).tokens == a.tokens + b.tokens


def test_a_limit_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(LimitExceeded("tokens", "used up")))
    assert (error.limit, str(error)) == ("tokens", "used up")
