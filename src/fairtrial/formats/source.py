"""Values of a file, one after the other: JSON Lines, JSON arrays and documents, Parquet; plain, gzip or zstd.

What cannot be read becomes a `Numbered` with a problem, in its place; the rest of the file is still read. Memory is
bounded by the largest value: a line over the limit is skipped without being held, an array is split as it is read.
"""

from __future__ import annotations

import gzip
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import orjson
import zstandard

from fairtrial.core.errors import UserError
from fairtrial.formats.format import Numbered

MAX_VALUE = 64 << 20
"""Bytes of one line or array element; a longer one is a problem, not a value."""
SUFFIXES = (".jsonl", ".ndjson", ".json", ".traj", ".parquet")
"""Endings of files that a walk through a folder reads; each of them but Parquet also with .gz or .zst."""
_CHUNK = 1 << 20
_WHOLE = 64 << 20
_BLANK = b" \t\r\n"
_BEGIN = re.compile(rb"[^ \t\r\n,]")
_NEXT = re.compile(rb'["\[\]{}]')
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_JSON = re.compile(rb"(?<![\w\"])(NaN|-?Infinity)(?![\w\"])")

Shape = Literal["lines", "array", "document"]


def values(path: Path, *, document: bool = False, limit: int = MAX_VALUE) -> Iterator[Numbered]:
    """Every value of a file with its line (for an array: its element), from 1.

    `document` takes a JSON array as one value instead of as many. Raises UserError where the file cannot be opened.
    """
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
        return
    with _opened(path) as file:
        head = _peek(file, path)
        shape = _shape(head)
        if shape == "lines":
            yield from _lines(file, head, limit)
        elif shape == "array" and not document:
            yield from _array(file, head, limit)
        else:
            yield from _documents(file, head, limit)


def is_array(path: Path) -> bool:
    """Whether the file is one JSON array, whose elements may be rows or the events of one session."""
    if path.name.endswith(".parquet"):
        return False
    with _opened(path) as file:
        return _shape(_peek(file, path)) == "array"


def readable_name(name: str) -> bool:
    """Whether a walk through a folder takes a file of this name for data."""
    for packed in (".gz", ".zst"):
        name = name.removesuffix(packed)
    return name.endswith(SUFFIXES)


def _opened(path: Path) -> BinaryIO:
    try:
        if path.name.endswith(".gz"):
            return cast("BinaryIO", gzip.open(path, "rb"))
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if path.name.endswith(".zst"):
        return cast("BinaryIO", _Buffered(zstandard.ZstdDecompressor().stream_reader(file, closefd=True)))
    return file


class _Buffered:
    """`readline` for a stream that has only `read`."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._rest = stream, b""

    def __enter__(self) -> _Buffered:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            parts = [self._rest]
            self._rest = b""
            while part := self._stream.read(_CHUNK):
                parts.append(part)
            return b"".join(parts)
        if self._rest:
            part, self._rest = self._rest[:size], self._rest[size:]
            return part
        return self._stream.read(size)

    def readline(self, size: int) -> bytes:
        parts: list[bytes] = []
        length = 0
        while length < size:
            part = self.read(min(_CHUNK, size - length))
            if not part:
                break
            end = part.find(b"\n") + 1
            if end:
                self._rest = part[end:] + self._rest
                parts.append(part[:end])
                break
            parts.append(part)
            length += len(part)
        return b"".join(parts)


def _peek(file: BinaryIO, path: Path) -> bytes:
    """The first bytes, from the first that says something: at least the first line of a file with short lines."""
    head = b""
    try:
        while len(head) < _CHUNK:
            part = file.read(_CHUNK)
            if not part:
                break
            head += part
            if not head.lstrip(_BLANK + b"\xef\xbb\xbf"):
                head = b""
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise UserError(f"{path}: cannot be unpacked: {error}") from None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: is UTF-16 text; save it as UTF-8")
    return head.removeprefix(b"\xef\xbb\xbf")


def _shape(head: bytes) -> Shape:
    start = head.lstrip(_BLANK)
    first, _, rest = start.partition(b"\n")
    if start[:1] == b"[":
        return "lines" if rest.strip(_BLANK) and _is_json(first) else "array"
    # pretty-printed: the first line opens what the next ones go on with
    opens = first.rstrip(_BLANK)[-1:] in (b"{", b"[", b",")
    return "document" if rest and opens and rest[:1] != b"{" and not _is_json(first) else "lines"


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def _lines(file: BinaryIO, head: bytes, limit: int) -> Iterator[Numbered]:
    number = 0
    reader = _Rejoined(head, file)
    while True:
        try:
            line = reader.readline(limit + 1)
        except (OSError, EOFError, zstandard.ZstdError) as error:
            yield Numbered(number + 1, problem=f"the file cannot be unpacked further: {error}")
            return
        if not line:
            return
        number += 1
        if len(line) > limit and line[-1:] != b"\n":
            size = len(line) + _skip_line(reader)
            yield Numbered(number, problem=_too_long("a line", size, limit))
            continue
        if line.isspace():
            continue
        yield _value(number, line)


def _skip_line(reader: _Rejoined) -> int:
    size = 0
    while part := reader.readline(_CHUNK):
        size += len(part)
        if part[-1:] == b"\n":
            break
    return size


class _Rejoined:
    """A file whose first bytes were read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._at, self._file = head, 0, file

    def readline(self, size: int) -> bytes:
        if self._at < len(self._head):
            end = self._head.find(b"\n", self._at, self._at + size) + 1
            if end:
                line, self._at = self._head[self._at : end], end
                return line
            line, self._at = self._head[self._at : self._at + size], min(len(self._head), self._at + size)
            return line if len(line) == size else line + self._file.readline(size - len(line))
        return self._file.readline(size)


def _value(number: int, raw: bytes) -> Numbered:
    try:
        return Numbered(number, orjson.loads(raw))
    except ValueError as error:
        return Numbered(number, problem=f"not valid JSON: {_why(raw, error)}", raw=raw)


def _why(raw: bytes, error: ValueError) -> str:
    if (constant := _NO_JSON.search(raw)) is not None:
        return f"{constant[1].decode()} is no JSON number; write null"
    message = str(error).split(": line 1 column")[0]
    try:
        raw.decode()
    except UnicodeDecodeError as broken:
        return f"byte {broken.start + 1} is not UTF-8"
    return f"{message} at character {getattr(error, 'pos', 0) + 1}"


def _too_long(what: str, size: int, limit: int) -> str:
    return f"{what} of {size / 1e6:.0f} MB, over the limit of {limit / 1e6:.0f} MB (--max-mb raises it)"


def _documents(file: BinaryIO, head: bytes, limit: int) -> Iterator[Numbered]:
    """One document of several lines, or several one after the other (as consoles print them)."""
    while len(head) <= _WHOLE and (part := file.read(_CHUNK)):
        head += part
    if len(head) <= _WHOLE and _is_json(head):
        yield Numbered(1, orjson.loads(head))
        return
    number = 0
    for number, raw in enumerate(_split(file, b"[" + head, limit, closed=False), 1):
        yield _value(number, raw) if isinstance(raw, bytes) else Numbered(number, problem=raw)


def _array(file: BinaryIO, head: bytes, limit: int) -> Iterator[Numbered]:
    """Elements of a JSON array; a small one in one go, a large or broken one element by element."""
    while len(head) <= _WHOLE and (part := file.read(_CHUNK)):
        head += part
    if len(head) <= _WHOLE:
        try:
            elements = orjson.loads(head)
        except ValueError:
            pass
        else:
            for number, element in enumerate(elements, 1):
                yield Numbered(number, element)
            return
    number = 0
    for number, raw in enumerate(_split(file, head, limit), 1):
        yield _value(number, raw) if isinstance(raw, bytes) else Numbered(number, problem=raw)


def _split(file: BinaryIO, buffer: bytes, limit: int, *, closed: bool = True) -> Iterator[bytes | str]:
    """The bytes of each element of an array, or what is wrong with it; `closed`: a bracket has to end it."""
    at = buffer.index(b"[") + 1
    while True:
        while (begin := _BEGIN.search(buffer, at)) is None:
            buffer, at = file.read(_CHUNK), 0
            if not buffer:
                if closed:
                    yield "the array has no end: the file is cut off"
                return
        if begin[0] == b"]":
            return
        scan = _Element(begin.start())
        while not scan.finished(buffer):
            part = file.read(_CHUNK)
            if not part:
                yield f"the file is cut off in this element ({len(buffer) - scan.start} bytes)"
                return
            if len(buffer) - scan.start > limit:
                yield _too_long("an element", len(buffer) - scan.start, limit) + "; the rest of the array is not read"
                return
            buffer = buffer[scan.start :] + part
            scan.rebase()
        yield buffer[scan.start : scan.at]
        at = scan.at


class _Element:
    """Looks for the end of one element in a buffer that grows."""

    def __init__(self, start: int) -> None:
        self.start, self.at, self._depth = start, start, 0

    def rebase(self) -> None:
        """The buffer begins at this element now."""
        self.at -= self.start
        self.start = 0

    def finished(self, buffer: bytes) -> bool:
        """Whether the end is in the buffer; `at` is just behind it then."""
        while True:
            if self._depth == 0 and self.at == self.start and buffer[self.at : self.at + 1] not in (b'"', b"{", b"["):
                return self._scalar(buffer)
            found = _NEXT.search(buffer, self.at)
            if found is None:
                self.at = len(buffer)
                return False
            self.at = found.start()
            token = buffer[self.at]
            if token == 0x22:
                string = _STRING.match(buffer, self.at)
                if string is None:
                    return False
                self.at = string.end()
            else:
                self._depth += 1 if token in b"{[" else -1
                self.at += 1
            if self._depth == 0:
                return True

    def _scalar(self, buffer: bytes) -> bool:
        ends = [end for end in (buffer.find(mark, self.at) for mark in (b",", b"]")) if end >= 0]
        if not ends:
            return False
        self.at = min(ends)
        return True


def _parquet(path: Path) -> Iterator[Numbered]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError('Parquet needs pyarrow; install it with: pip install "fairtrial[parquet]"') from None
    try:
        file = parquet.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise UserError(f"{path}: is no Parquet file: {error}") from None
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=64):
            for value in batch.to_pylist():
                number += 1
                yield Numbered(number, value)
