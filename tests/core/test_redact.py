"""Redaction: a known secret is nowhere in what is written, and nothing else is lost."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.redact import Redactor

CANARY = 'cañary"/\\secret\nvalue-9'
ENVIRON = {"MY_API_KEY": CANARY, "HF_TOKEN": "short", "HOME": "/home/someone", "PLAIN": "not-a-secret-value"}
REDACTOR = Redactor(ENVIRON, extra=["EXTRA"])

json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just(CANARY) | st.just(f"a {CANARY} b"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just(CANARY), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_form_of_a_secret_survives_in_json(value):
    for ascii_only in (True, False):
        text = json.dumps(REDACTOR.value(value), ensure_ascii=ascii_only)
        assert CANARY not in text
        assert json.dumps(CANARY, ensure_ascii=ascii_only)[1:-1] not in text


def test_a_secret_inside_json_text_is_found_in_both_spellings():
    for ascii_only in (True, False):
        text = json.dumps({"log": f"key={CANARY}"}, ensure_ascii=ascii_only)
        assert json.loads(REDACTOR.text(text)) == {"log": "key=[redacted MY_API_KEY]"}


def test_what_is_no_secret_stays_as_it_is():
    value = {"a": ["not-a-secret-value", "/home/someone", "short", 1, None, True, 2.5], "b": {"c": ""}}
    assert REDACTOR.value(value) == value


def test_entries_whose_keys_become_equal_are_all_kept():
    redactor = Redactor({})
    keys = [f"sk-{letter * 30}" for letter in "ab"]
    assert redactor.value({keys[0]: 1, keys[1]: 2}) == {"[redacted key]": 1, "[redacted key] (2)": 2}


def test_known_shapes_go_even_when_nobody_named_them():
    text = Redactor({}).text("use sk-ant-abcdefghij0123456789xyz and AKIAABCDEFGHIJKLMNOP, keep sk-learn")
    assert text == "use [redacted key] and [redacted key], keep sk-learn"


def test_a_key_that_begins_with_a_slash_is_a_secret_and_an_existing_file_is_not(tmp_path):
    file = tmp_path / "token-file"
    file.write_text("x")
    redactor = Redactor({"AWS_SECRET": "/Zm9vYmFyYmF6cXV4", "TOKEN_FILE": str(file)})
    assert redactor.text(f"/Zm9vYmFyYmF6cXV4 {file}") == f"[redacted AWS_SECRET] {file}"


def test_a_secret_may_be_named_by_hand():
    assert Redactor({"EXTRA": "0123456789"}, extra=["EXTRA"]).text("x0123456789y") == "x[redacted EXTRA]y"


def test_the_longer_of_two_nested_secrets_is_replaced_whole():
    redactor = Redactor({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefgh-and-more"})
    assert redactor.text("abcdefgh-and-more abcdefgh") == "[redacted B_TOKEN] [redacted A_TOKEN]"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_pass_unharmed_but_for_the_secret(noise):
    secret = b"binary-secret-1"
    redactor = Redactor({"X_PASSWORD": secret.decode()})
    assert redactor.content(noise) == noise
    assert secret not in redactor.content(noise + secret + noise)


def test_a_run_that_told_a_secret_keeps_no_ids_that_could_be_decoded():
    redactor = Redactor({"MY_API_KEY": "correct-horse-battery"})
    call = {"prompt": {"base": None, "keep": 0, "append": [1, 2]}, "completion_ids": [3, 4], "logprobs": [-0.5, -1]}
    said = {
        "content": "it is correct-horse-battery",
        "kwargs": {"prompt": {"append": "x", "style": "y"}, "logprobs": 5},
    }
    clean = redactor.trace({"model_calls": (call,), "content": [said]})
    assert clean["model_calls"] == [{"prompt": None, "completion_ids": None, "logprobs": None}]
    assert clean["content"] == [{**said, "content": "it is [redacted MY_API_KEY]"}]
    innocent = {"model_calls": (call,), "content": [{"content": "nothing"}]}
    assert redactor.trace(innocent)["model_calls"] == [call]
