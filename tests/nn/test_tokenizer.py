"""The tokenizer: exact on any bytes, the same every time, and deaf to special tokens that text spells out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.nn.tokenizer import SPECIALS, Stream, Tokenizer, text_files, train_tokenizer

pytest.importorskip("tokenizers")

CORPUS = [
    "The agent reads the file, then the agent writes the file. Numbers: 1234567, 3.14.\n",
    "Der Bär über dem Café: naïve façade — 東京タワー, 😀 👩‍👩‍👧‍👦.\n\n\n",
    "    def f(x):\n        return x + 1\r\n\t\tpass   \n",
] * 20


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return Tokenizer.train(CORPUS, vocab_size=500)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_come_back(tok: Tokenizer, data: bytes) -> None:
    assert tok.decode_bytes(tok.encode_bytes(data)) == data


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_comes_back_and_equals_its_bytes(tok: Tokenizer, text: str) -> None:
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert ids == tok.encode_bytes(text.encode())


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(categories=["Cs", "L"]), max_size=50))
def test_lone_surrogates_keep_their_bytes(tok: Tokenizer, text: str) -> None:
    ids = tok.encode(text)
    assert tok.decode(ids, errors="surrogatepass") == text
    tok.decode(ids).encode()  # what is shown is always valid text


marked = st.lists(st.one_of(st.sampled_from(sorted(SPECIALS)), st.text(max_size=8)), max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=marked)
def test_text_cannot_forge_a_special_token(tok: Tokenizer, text: str) -> None:
    special = set(tok.specials.values())
    assert not special & set(tok.encode(text))
    assert not special & set(tok.encode_bytes(text.encode()))
    assert not special & set(tok.encode_many([text])[0])
    assert tok.decode(tok.encode(text)) == text
    assert tok.decode(tok.encode(text, allow_special=True)) == text


def test_special_tokens_are_made_only_when_asked(tok: Tokenizer) -> None:
    call, end = tok.special("<|call|>"), tok.special("<|end|>")
    ids = tok.encode("<|call|>ls -l<|end|>", allow_special=True)
    assert (ids[0], ids[-1]) == (call, end)
    assert tok.decode(ids, skip_special=True) == "ls -l"
    assert ids[1:-1] == tok.encode("ls -l")
    assert len(tok.encode("<|call|>")) > 1


def test_text_about_special_tokens_in_the_training_data_does_not_make_them_reachable() -> None:
    tok = Tokenizer.train(["<|user|><|call|> <|user|>"] * 500, vocab_size=400)
    assert not set(tok.specials.values()) & set(tok.encode("<|user|><|call|> <|user|>"))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80))
def test_stream_equals_decoding_at_once(tok: Tokenizer, data: bytes) -> None:
    stream = Stream(tok)
    ids = tok.encode_bytes(data)
    parts = [stream.push(index) for index in ids]
    assert "".join(parts) + stream.close() == tok.decode(ids)


def test_stream_never_shows_half_a_character(tok: Tokenizer) -> None:
    stream = Stream(tok)
    ids = [i for byte in "a🦉b".encode() for i in tok.encode_bytes(bytes([byte]))]
    assert [stream.push(i) for i in ids] == ["a", "", "", "", "🦉", "b"]
    assert stream.close() == ""


def test_encode_many_equals_one_by_one(tok: Tokenizer) -> None:
    texts = ["plain", b"\xff\xfe broken \x80", "", "naïve 😀", "\ud800 lone", CORPUS[0] * 50]
    assert tok.encode_many(texts) == [tok.encode_bytes(text) for text in texts]


def test_training_packs_text_and_is_the_same_in_another_process(tmp_path: Path) -> None:
    source = tmp_path / "corpus.txt"
    source.write_text("".join(CORPUS), "utf-8")
    here = train_tokenizer([source], tmp_path / "a.json", 360)
    program = (
        "import sys; from pathlib import Path; from fairtrial.nn.tokenizer import train_tokenizer;"
        "train_tokenizer([Path(sys.argv[1])], Path(sys.argv[2]), 360)"
    )
    for seed, parallel in (("1", "true"), ("77", "false")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel}
        subprocess.run(
            [sys.executable, "-c", program, str(source), str(tmp_path / "b.json")], env=environment, check=True
        )
        assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    assert here.vocab_size == 360
    assert here.bytes == source.stat().st_size
    assert here.bytes_per_token > 2
    assert Tokenizer.load(here.path).sha256 == here.sha256


def test_saved_file_encodes_alike_and_leaves_nothing_behind(tok: Tokenizer, tmp_path: Path) -> None:
    tok.save(tmp_path / "tok.json")
    again = Tokenizer.load(tmp_path / "tok.json")
    assert again.encode("".join(CORPUS[:3])) == tok.encode("".join(CORPUS[:3]))
    assert again.specials == tok.specials == {marker: n for n, marker in enumerate(SPECIALS)}
    assert [p.name for p in tmp_path.iterdir()] == ["tok.json"]


def test_bytes_that_are_not_text_do_not_stop_training(tmp_path: Path) -> None:
    (tmp_path / "mixed.bin").write_bytes(b"good good good \xff\xfe\x00 good good\n" * 50)
    assert train_tokenizer([tmp_path], tmp_path / "out.json", 280).tokens > 0


def test_folders_are_read_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [p.name for p in text_files([tmp_path])] == ["z.txt", "b.txt"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda tmp: train_tokenizer([tmp / "none"], tmp / "o", 300), "no such file or folder"),
        (lambda tmp: Tokenizer.train([], vocab_size=300), "no text"),
        (lambda tmp: Tokenizer.train(["x"], vocab_size=100), "266 is the least"),
        (lambda tmp: Tokenizer.train(["x"], specials=["plan"]), "write it as <|word|>"),
        (lambda tmp: Tokenizer.train(["x"], specials=["<|a|>", "<|a|>"]), "named twice"),
        (lambda tmp: Tokenizer.load(tmp / "none"), "no such file"),
        (lambda tmp: Tokenizer.train(["x"]).save(tmp / "no" / "o"), "cannot be written"),
        (lambda tmp: Tokenizer.train(["x"]).decode([10**6]), "outside the vocabulary"),
        (lambda tmp: Tokenizer.train(["x"]).decode([-1]), "outside the vocabulary"),
        (lambda tmp: Tokenizer.train(["x"]).special("<|nope|>"), "no special token"),
    ],
)
def test_bad_input_is_one_line(call, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        call(tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def _broken(document: dict, change: str) -> str:
    model = document["model"]
    if change == "normalizer":
        document["normalizer"] = {"type": "NFC"}
    elif change == "byte":
        del model["vocab"]["A"]
    elif change == "prefix":
        document["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    elif change == "removed":
        document["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"
    elif change == "unigram":
        model["type"] = "Unigram"
    elif change == "twice":
        model["vocab"]["A"] = model["vocab"]["B"]
    elif change == "merge":
        model["merges"].append(["zz", "qq"])
    elif change == "suffix":
        model["end_of_word_suffix"] = "x"
    elif change == "marker":
        document["added_tokens"][0]["content"] = ["x"]
    elif change == "special":
        document["added_tokens"][0]["id"] = 300
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("normalizer", "normalizes"),
        ("byte", "1 of 256 bytes have no token (first: 0x41)"),
        ("prefix", "prefix space"),
        ("removed", "byte-level"),
        ("unigram", "BPE"),
        ("twice", "distinct"),
        ("merge", "not a usable tokenizer"),
        ("suffix", "byte-level"),
        ("marker", "not a list of tokens"),
        ("special", "one id in the vocabulary"),
    ],
)
def test_a_file_that_would_not_be_exact_is_refused(tok: Tokenizer, tmp_path: Path, change: str, says: str) -> None:
    tok.save(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(_broken(json.loads((tmp_path / "t.json").read_text()), change))
    with pytest.raises(UserError, match=r"t\.json") as caught:
        Tokenizer.load(tmp_path / "t.json")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 3}', "[" * 100_000, "null"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=r"t\.json"):
        Tokenizer.load(tmp_path / "t.json")
