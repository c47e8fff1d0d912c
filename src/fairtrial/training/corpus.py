"""Text files and JSONL to memory-mapped tokens: each document is one run of ids between a start and an end marker.

Tokens are made once and kept beside the run; a note of everything they depend on (the documents, the tokenizer, the
share held out) says whether they are still right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from fairtrial.core.errors import UserError
from fairtrial.nn.tokenizer import text_files
from fairtrial.store import storing, whole_file
from fairtrial.training.settings import Source, folder_of

START_MARKERS = ("<|doc|>", "<|endoftext|>")
END_MARKERS = ("<|end|>", "<|endoftext|>")


class Encoder(Protocol):
    """What the corpus needs of a tokenizer."""

    vocab_size: int
    specials: dict[str, int]

    @property
    def sha256(self) -> str:
        """Changes when the encoding does."""
        ...

    def encode_bytes(self, data: bytes | str) -> list[int]:
        """Ids of a text."""
        ...

    def decode_bytes(self, ids: list[int], *, skip_special: bool = False) -> bytes:
        """The bytes that ids stand for."""
        ...


class ByteTokenizer:
    """One id for each byte, then the markers of a document: 258 ids, nothing to train."""

    vocab_size = 258

    def __init__(self) -> None:
        self.specials = {"<|doc|>": 256, "<|end|>": 257}

    @property
    def sha256(self) -> str:
        """There is only one."""
        return hashlib.sha256(b"bytes").hexdigest()

    def encode_bytes(self, data: bytes | str) -> list[int]:
        """The bytes themselves."""
        return list(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)

    def decode_bytes(self, ids: list[int], *, skip_special: bool = False) -> bytes:
        """The bytes; a marker stands for its text, or for nothing with `skip_special`."""
        markers = {number: b"" if skip_special else text.encode() for text, number in self.specials.items()}
        return b"".join(markers.get(index) or (bytes([index]) if index < 256 else b"") for index in ids)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens of one source. Document d is `tokens[borders[d]:borders[d + 1]]`, both markers included."""

    name: str
    tokens: np.ndarray
    """uint16 or uint32, memory-mapped."""
    borders: np.ndarray
    """int64, one more than there are documents."""
    digest: str = ""
    """Of everything that the tokens depend on."""

    @property
    def targets(self) -> int:
        """Tokens that one pass over the corpus predicts."""
        return int(self.borders[-1]) - (len(self.borders) - 1)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source, split."""

    train: Corpus
    held: Corpus | None


def documents(name: str, source: Source, base: Path) -> Iterator[bytes]:
    """The documents of a source, in the order of its files; empty ones are left out. Raises UserError naming a file."""
    for path in text_files(folder_of(source.files, base)):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"source {name}: {path}: cannot be read: {error.strerror}") from None
        if path.suffix == ".jsonl":
            parts: Iterator[bytes] = _jsonl(content, source.field, f"source {name}: {path}")
        elif source.documents == "file":
            parts = iter([content])
        else:
            parts = iter(content.splitlines() if source.documents == "lines" else _paragraphs(content))
        yield from (part for part in parts if part.strip())


def training_part(name: str, source: Source, base: Path, held_out: float) -> Iterator[bytes]:
    """The documents of a source without what is held out: what a tokenizer may learn from."""
    plan = _Plan.of(name, source, base, held_out)
    for index, document in enumerate(documents(name, source, base)):
        yield from (text for part, text in plan.parts(index, document) if part == "train")


def prepare(name: str, source: Source, base: Path, tokenizer: Encoder, held_out: float, folder: Path) -> Prepared:
    """Tokenise a source into `folder`, or map what is there when nothing that it depends on has changed.

    Raises UserError for a source without text, StorageError where the disk refuses.
    """
    plan = _Plan.of(name, source, base, held_out)
    digest = hashlib.sha256(f"{plan.digest} {tokenizer.sha256} {held_out}".encode()).hexdigest()
    note = folder / f"{name}.json"
    if not note.exists() or json.loads(note.read_bytes()).get("digest") != digest:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            note.unlink(missing_ok=True)
        _write(name, source, base, tokenizer, plan, folder)
        with whole_file(note) as file:
            file.write(json.dumps({"digest": digest, "documents": plan.count}).encode())
    train = _open(folder, name, "train", tokenizer, digest)
    assert train is not None
    return Prepared(train, _open(folder, name, "held", tokenizer, digest) if held_out else None)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which documents are held out: whole ones by their hash (so that copies go together), else the end of one."""

    digest: str
    count: int
    held: frozenset[int]
    cut: tuple[int, int] | None
    """Document and byte where its end is cut off."""

    @classmethod
    def of(cls, name: str, source: Source, base: Path, held_out: float) -> _Plan:
        whole, held, longest, count = hashlib.sha256(), set[int](), (0, b""), 0
        for count, document in enumerate(documents(name, source, base), start=1):
            mark = hashlib.sha256(document).digest()
            whole.update(mark)
            if int.from_bytes(mark[:8], "big") < held_out * 2**64:
                held.add(count - 1)
            if len(document) > len(longest[1]):
                longest = (count - 1, document)
        if not count:
            raise UserError(f"source {name}: there is no text in {', '.join(source.files)}; give files that have some")
        if not held_out or 0 < len(held) < count:
            return cls(whole.hexdigest(), count, frozenset(held), None)
        index, text = longest
        at = min(len(text) - 1, int(len(text) * (1 - held_out)))
        line = text.rfind(b"\n", max(1, at // 2), at) + 1
        cut = line if line > 0 else at
        return cls(whole.hexdigest(), count, frozenset(), (index, cut) if cut > 0 else None)

    def parts(self, index: int, document: bytes) -> Iterator[tuple[str, bytes]]:
        if self.cut is not None and index == self.cut[0]:
            yield "train", document[: self.cut[1]]
            yield "held", document[self.cut[1] :]
        else:
            yield ("held" if index in self.held else "train"), document


def _write(name: str, source: Source, base: Path, tokenizer: Encoder, plan: _Plan, folder: Path) -> None:
    start, end = _marker(tokenizer, START_MARKERS), _marker(tokenizer, END_MARKERS)
    kind = _dtype(tokenizer)
    borders = {"train": [0], "held": [0]}
    with whole_file(_path(folder, name, "train")) as train, whole_file(_path(folder, name, "held")) as held:
        files = {"train": train, "held": held}
        for index, document in enumerate(documents(name, source, base)):
            for part, text in plan.parts(index, document):
                ids = np.array([start, *tokenizer.encode_bytes(text), end], dtype=kind)
                files[part].write(ids.tobytes())
                borders[part].append(borders[part][-1] + len(ids))
    for part, places in borders.items():
        with whole_file(_path(folder, name, part).with_suffix(".borders")) as file:
            file.write(np.array(places, dtype=np.int64).tobytes())


def _open(folder: Path, name: str, part: str, tokenizer: Encoder, digest: str) -> Corpus | None:
    borders = np.fromfile(_path(folder, name, part).with_suffix(".borders"), dtype=np.int64)
    if len(borders) < 2:
        return None
    tokens = np.memmap(_path(folder, name, part), dtype=_dtype(tokenizer), mode="r")
    if len(tokens) != borders[-1]:
        raise UserError(f"{_path(folder, name, part)}: not what was written; delete {folder} to make it again")
    return Corpus(name, tokens, borders, digest)


def _path(folder: Path, name: str, part: str) -> Path:
    return folder / f"{name}.{part}.tokens"


def _dtype(tokenizer: Encoder) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32


def _marker(tokenizer: Encoder, names: tuple[str, ...]) -> int:
    for name in names:
        if name in tokenizer.specials:
            return tokenizer.specials[name]
    raise UserError(
        f"the tokenizer has no marker for a document's border ({' or '.join(names)}); train one with fairtrial"
    )


def _paragraphs(content: bytes) -> list[bytes]:
    return content.replace(b"\r\n", b"\n").split(b"\n\n")


def _jsonl(content: bytes, field: str, where: str) -> Iterator[bytes]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{where} line {number}: not JSON ({error})") from None
        for key in field.split("."):
            if not isinstance(value, dict) or key not in value:
                keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
                raise UserError(f'{where} line {number}: no field "{field}" (there is: {keys}); set `field`')
            value = value[key]
        if not isinstance(value, str):
            raise UserError(f'{where} line {number}: field "{field}" is {type(value).__name__}, not text')
        yield value.encode("utf-8", "surrogatepass")
