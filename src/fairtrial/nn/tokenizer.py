"""Byte-level BPE over any bytes, with special tokens for actions that no text can forge.

The merges are learned and applied by the `tokenizers` library (byte-level BPE as in GPT-2: every byte is a token of
the alphabet, so nothing is ever unknown). Two things are ours: bytes that are not UTF-8 become their single-byte
tokens, so `decode_bytes(encode_bytes(x)) == x` for every x; and special tokens are not in the vocabulary that text is
matched against, so a user's text that spells `<|call|>` stays text unless the caller says `allow_special=True`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtrial.core.errors import UserError

SPECIALS: Mapping[str, str] = {
    "<|pad|>": "filler behind the end of a shorter sequence; never a target",
    "<|doc|>": "start of a document; packed documents do not see across it",
    "<|end|>": "end of a turn, and of a document: where sampling stops",
    "<|system|>": "start of the task's and the tools' description",
    "<|user|>": "start of what the user says",
    "<|agent|>": "start of what the agent says",
    "<|plan|>": "start of a plan, before the agent acts",
    "<|call|>": "start of an action: one call of a tool",
    "<|result|>": "start of what the environment returned",
    "<|fold|>": "start of a summary that replaces the turns before it",
}
"""The special tokens of a tokenizer trained here, in the order of their ids from 0, and what each one marks."""

_SPLIT = r" ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPECIAL_FORM = re.compile(r"<\|[a-z0-9_]{1,32}\|>")
_STRAY = re.compile("[\udc80-\udcff]+")
_INEXACT = ("byte_fallback", "dropout", "end_of_word_suffix", "continuing_subword_prefix")
_BLOCK = 1 << 20
_FILE_LIMIT = 256 << 20


class Tokenizer:
    """A trained byte-level BPE. Build one with `train` or `load`.

    Ids are ints in [0, `vocab_size`). `specials` maps marker text to id. Instances are immutable; encoding releases
    the GIL and may be used from several threads.
    """

    def __init__(self, text: str, *, where: str = "tokenizer") -> None:
        """From a `tokenizers` JSON document; `where` names it in messages.

        Raises UserError when it is not a byte-level BPE that keeps every byte.
        """
        self._text = text
        data = _parsed(text, where)
        vocabulary: dict[str, int] = data["model"]["vocab"]
        self.specials: dict[str, int] = {str(item["content"]): int(item["id"]) for item in data["added_tokens"]}
        self.vocab_size: int = 1 + max([*vocabulary.values(), *self.specials.values()])
        for marker in self.specials:
            vocabulary.pop(marker, None)
        table = _byte_of()
        self._bytes: list[bytes] = [b""] * self.vocab_size
        for token, index in vocabulary.items():
            self._bytes[index] = bytes(table[char] for char in token)
        for marker, index in self.specials.items():
            self._bytes[index] = marker.encode()
        self._special_ids = frozenset(self.specials.values())
        self._byte_ids = [vocabulary[char] for char, _ in sorted(table.items(), key=lambda pair: pair[1])]
        self._markers = re.compile("|".join(re.escape(m) for m in sorted(self.specials, key=len, reverse=True)) or "$^")
        data["added_tokens"], data["post_processor"], data["truncation"], data["padding"] = [], None, None, None
        try:
            self._inner = _library().Tokenizer.from_str(json.dumps(data))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a document it cannot use
            raise UserError(f"{where}: not a usable tokenizer: {' '.join(str(error).split())}") from None

    @property
    def sha256(self) -> str:
        """Hex digest of the JSON document: two tokenizers with the same digest encode alike."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @classmethod
    def train(
        cls, texts: Iterable[str | bytes], *, vocab_size: int = 4096, specials: Sequence[str] = tuple(SPECIALS)
    ) -> Tokenizer:
        """Learn merges from texts. The same texts in the same order give the same document, byte for byte.

        `vocab_size` counts special tokens and the 256 bytes; where the texts have too few pairs the result is
        smaller. Bytes that are not UTF-8 are left out of the counts. Raises UserError for a vocabulary that is too
        small, a special token that is not of the form `<|word|>` or is named twice, or no text at all.
        """
        _check_specials(specials)
        if vocab_size < 256 + len(specials):
            raise UserError(
                f"the vocabulary is to have {vocab_size} ids; {256 + len(specials)} is the least "
                f"(256 bytes and {len(specials)} special tokens)"
            )
        library = _library()
        learner = library.Tokenizer(library.models.BPE())
        learner.pre_tokenizer = library.pre_tokenizers.Sequence(
            [
                library.pre_tokenizers.Split(library.Regex(_SPLIT), "isolated"),
                library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        learner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(specials),
            initial_alphabet=sorted(_byte_of()),
            show_progress=False,
        )
        seen = False

        def valid() -> Iterator[str]:
            nonlocal seen
            for text in texts:
                for run in _STRAY.split(_escaped(text)):
                    seen = seen or bool(run)
                    yield run

        learner.train_from_iterator(valid(), trainer)
        if not seen:
            raise UserError("there is no text to train a tokenizer on; give at least one file that is not empty")
        return cls(learner.to_str())

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read one JSON file (ours, or any `tokenizer.json` of a byte-level BPE). Raises UserError in one line."""
        try:
            if path.stat().st_size > _FILE_LIMIT:
                raise UserError(f"{path}: larger than {_FILE_LIMIT >> 20} MiB, which no tokenizer file is")
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; train one first") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start}), so not a tokenizer file") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        return cls(text, where=str(path))

    def save(self, path: Path) -> None:
        """Write the one JSON file that `load` reads; a reader never sees half of it. Raises UserError."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(self._text, "utf-8")
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def special(self, marker: str) -> int:
        """The id of a special token. Raises UserError for a marker that this tokenizer does not have."""
        if marker not in self.specials:
            raise UserError(f"no special token {marker!r}; known: {', '.join(self.specials) or 'none'}")
        return self.specials[marker]

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of a text. With `allow_special` markers such as `<|call|>` become special tokens; else they are text.

        A lone surrogate, which is no character, is kept as the three bytes of its code.
        """
        if not allow_special:
            return self.encode_bytes(text)
        ids: list[int] = []
        start = 0
        for match in self._markers.finditer(text):
            ids += self.encode_bytes(text[start : match.start()])
            ids.append(self.specials[match.group()])
            start = match.end()
        return ids + self.encode_bytes(text[start:])

    def encode_bytes(self, data: bytes | str) -> list[int]:
        """Ids of any bytes, UTF-8 or not; never a special token. `decode_bytes` gives exactly `data` back."""
        text = _escaped(data)
        if _STRAY.search(text) is None:
            return self._inner.encode_batch_fast([text], add_special_tokens=False)[0].ids if text else []
        ids: list[int] = []
        start = 0
        for match in _STRAY.finditer(text):
            ids += self.encode_bytes(text[start : match.start()])
            ids += [self._byte_ids[ord(char) - 0xDC00] for char in match.group()]
            start = match.end()
        return ids + self.encode_bytes(text[start:])

    def encode_many(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """`encode_bytes` of every text, on all cores; the order is kept."""
        escaped = [_escaped(text) for text in texts]
        clean = [_STRAY.search(text) is None for text in escaped]
        batch = self._inner.encode_batch_fast(
            [text for text, ok in zip(escaped, clean, strict=True) if ok], add_special_tokens=False
        )
        encoded = iter(batch)
        return [next(encoded).ids if ok else self.encode_bytes(text) for text, ok in zip(texts, clean, strict=True)]

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The bytes that ids stand for; a special token stands for its marker, or for nothing with `skip_special`.

        Raises UserError for an id outside the vocabulary.
        """
        return b"".join(self._token(index, skip_special) for index in ids)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False, errors: str = "replace") -> str:
        """`decode_bytes` as text. `errors` is Python's way with bytes that are not UTF-8 (default: U+FFFD)."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors)

    def _token(self, index: int, skip_special: bool) -> bytes:
        if not 0 <= index < self.vocab_size:
            raise UserError(f"token id {index} is outside the vocabulary of {self.vocab_size}")
        return b"" if skip_special and index in self._special_ids else self._bytes[index]


class Stream:
    """Decodes tokens one by one: each `push` returns the characters that are complete by now.

    The joined output equals `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Text that became complete with this token; may be empty. Raises UserError for an unknown id."""
        return self._decoder.decode(self._tokenizer.decode_bytes([index], skip_special=self._skip))

    def close(self) -> str:
        """What is left: U+FFFD where the stream ends inside a character. The stream can be used again."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text


@dataclass(frozen=True, slots=True)
class Trained:
    """What training a tokenizer gave: the file, sizes, and how well it packs the texts that it was trained on."""

    path: Path
    sha256: str
    vocab_size: int
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Mean length of a token on the training texts."""
        return self.bytes / max(self.tokens, 1)


def train_tokenizer(
    paths: Sequence[Path], out: Path, vocab_size: int = 4096, *, specials: Sequence[str] = tuple(SPECIALS)
) -> Trained:
    """Train on text files (a folder stands for every file below it, by name) and write one JSON file to `out`.

    Raises UserError for a missing path, no text, a vocabulary that is too small, or a file that cannot be written.
    """
    files = list(text_files(paths))
    tokenizer = Tokenizer.train(
        (block for path in files for block in _blocks(path)), vocab_size=vocab_size, specials=specials
    )
    tokenizer.save(out)
    size = tokens = 0
    for path in files:
        for block in _blocks(path):
            size += len(block)
            tokens += len(tokenizer.encode_bytes(block))
    return Trained(out, tokenizer.sha256, tokenizer.vocab_size, size, tokens)


def text_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Files named by `paths`, folders opened up in the order of names; hidden files are left out of folders.

    Raises UserError for a path that does not exist or a folder without files.
    """
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
            if not inside:
                raise UserError(f"{path}: the folder holds no files")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path}: no such file or folder")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks of about 1 MiB that end with a line where there are lines."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block + file.readline(_BLOCK)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _escaped(data: bytes | str) -> str:
    """Text in which every byte that is not UTF-8 is one surrogate U+DC80..U+DCFF."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError:
            data = data.encode("utf-8", "surrogatepass")
        else:
            return data
    return data.decode("utf-8", "surrogateescape")


def _byte_of() -> dict[str, int]:
    """The character that stands for each byte: printable Latin-1 stands for itself, the rest follow from U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


def _check_specials(specials: Sequence[str]) -> None:
    for marker in specials:
        if not _SPECIAL_FORM.fullmatch(marker):
            raise UserError(f"special token {marker!r}: write it as <|word|>, with a-z, 0-9 and _ inside")
        if specials.count(marker) > 1:
            raise UserError(f"special token {marker!r} is named twice")


def _parsed(text: str, where: str) -> dict[str, Any]:
    """The document, checked as far as exactness depends on it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON, so not a tokenizer file") from None
    model = data.get("model") if isinstance(data, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary, dict) or model.get("type") != "BPE":
        raise UserError(f'{where}: "model" is not a BPE with a vocabulary; only byte-level BPE is supported')
    data["added_tokens"] = added = data.get("added_tokens") or []
    ids = [*vocabulary.values()]
    if not isinstance(added, list) or not all(
        isinstance(item, dict) and _is_text(item.get("content")) for item in added
    ):
        raise UserError(f'{where}: "added_tokens" is not a list of tokens')
    ids += [item.get("id") for item in added if item["content"] not in vocabulary]
    if not all(type(index) is int and 0 <= index < 1 << 24 for index in ids) or len(set(ids)) != len(ids):
        raise UserError(f"{where}: token ids are not distinct whole numbers")
    if any(vocabulary.get(item["content"], item.get("id")) != item.get("id") for item in added):
        raise UserError(f"{where}: a special token has one id in the vocabulary and another in the list")
    if data.get("normalizer"):
        raise UserError(f"{where}: it normalizes text, so decoding would not give the text back")
    plain = not any(model.get(key) for key in _INEXACT)
    if not plain or not _is_byte_level(data.get("pre_tokenizer")):
        raise UserError(f"{where}: not a byte-level BPE without prefix space and dropout")
    table, markers = _byte_of(), {item["content"] for item in added}
    if missing := [byte for char, byte in table.items() if char not in vocabulary]:
        raise UserError(f"{where}: {len(missing)} of 256 bytes have no token (first: 0x{min(missing):02x})")
    for token in vocabulary:
        if token not in markers and not all(char in table for char in token):
            raise UserError(f"{where}: token {token!r} is not spelled in bytes")
    return data


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_byte_level(step: Any) -> bool:
    """Whether a pre-tokenizer ends in the byte alphabet and adds nothing to the text."""
    if not isinstance(step, dict):
        return False
    if step.get("type") == "Sequence":
        steps = step.get("pretokenizers")
        return isinstance(steps, list) and bool(steps) and _is_byte_level(steps[-1]) and all(map(_is_plain, steps))
    return step.get("type") == "ByteLevel" and not step.get("add_prefix_space")


def _is_plain(step: Any) -> bool:
    """Whether a step only cuts text, losing and adding nothing."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Split":
        return step.get("behavior") != "Removed"
    return kind == "Digits" or (kind == "ByteLevel" and not step.get("add_prefix_space"))


def _library() -> Any:
    """The `tokenizers` package. Raises UserError that says how to install it."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError('tokenizers are not installed; install with: pip install "fairtrial[local]"') from None
    return tokenizers
