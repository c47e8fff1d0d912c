"""Identity: seeds that pair the arms, canonical bytes, names."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json, check_name, digest, file_digest, seed

STREAMS = ["sampling", "environment", "order", "retry", "analysis"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé😀\n"'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


def test_a_seed_is_fixed_for_ever():
    """Changing how seeds are made would silently change every published study."""
    by_hand = hashlib.blake2b(b'[7,"task",0,"sampling"]', digest_size=8).digest()
    assert seed(7, "task", 0, "sampling") == int.from_bytes(by_hand, "big") >> 1 == 6080703686619856154


def test_seeds_differ_by_study_task_repeat_and_stream_and_fit_63_bits():
    seeds = [
        seed(study, task, repeat, stream)
        for study in range(3)
        for task in ("a", "b", "a0", "")
        for repeat in range(3)
        for stream in STREAMS
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= value < 2**63 for value in seeds)


def test_seeds_do_not_run_into_each_other():
    """("a", repeat 11) and ("a1", repeat 1) would collide if the parts were merely glued together."""
    assert seed(1, "a", 11, "order") != seed(1, "a1", 1, "order") != seed(11, "a", 1, "order")


def test_seeds_are_equal_in_another_process_with_another_hash_seed():
    code = "from fairtrial.core.ids import seed; print(seed(3, 'tâche', 2, 'order'))"
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, capture_output=True, text=True, check=True
    )
    assert int(out.stdout) == seed(3, "tâche", 2, "order")


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=6))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest(value) == digest(backwards)


def test_canonical_json_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


def test_file_digest_is_the_digest_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(content)
    assert file_digest(tmp_path / "f") == digest(content)


@pytest.mark.parametrize("name", ["fold", "a/b", "x-1_2.3", "user@host", "c++", "9"])
def test_good_names_pass(name):
    assert check_name(name, "arm") == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/../b", "/abs", "a//b", "a/", "a b", "a\n", ".hidden", "-flag", "é", "a" * 201, "a\x00"]
)
def test_bad_names_are_refused_and_shown(name):
    with pytest.raises(UserError, match="is not a valid name"):
        check_name(name, "arm")
