"""Inspect's .eval files: a zip of JSON, read sample by sample from the untrusted archive; nothing is unpacked to disk.

Entries are stored, deflated or, as newer versions write them, packed with Zstandard (zip method 93), which Python's
zipfile learns only in 3.14; they are unpacked here under a bound. A sample is one entry, or a folder of chunks.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from fairtrial.core.errors import UserError
from fairtrial.formats.format import Numbered

MAX_ENTRY = 1 << 30
"""Bytes of one unpacked entry; a larger one is a problem, not a sample."""
_ZSTD = 93
_LOCAL_HEADER = 30
_ENCRYPTED = 1
_MONOLITH = re.compile(r"samples/.*_epoch_\d+\.json", re.DOTALL)
_SHELL = re.compile(r"(samples/.*_epoch_\d+)/sample\.json", re.DOTALL)
_CHUNK = re.compile(r"(\d+)\.json")


class _EntryError(Exception):
    """This entry cannot be read; one line that says why."""


def samples(path: Path, limit: int = MAX_ENTRY) -> Iterator[Numbered]:
    """Every sample of an .eval file as `{"log": header, "sample": sample}`, numbered in the archive's order.

    The first one carries the log's whole header, the others its `eval` part. Raises UserError where the file is no
    zip archive; an entry that cannot be read is a problem in its place.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"{path}: is no readable zip archive (cut off?): {error}") from None
        entries = {entry.filename: entry for entry in archive.infolist()}
        reader = _Reader(file, entries, limit)
        try:
            header = reader.header()
        except _EntryError as error:
            header = {}
            yield Numbered(0, problem=str(error))
        yield from _samples(reader, header)


def value(sample: Any, header: Any, first: bool) -> dict[str, Any]:
    """What `decode` takes: a sample beside what its log says; the whole header rides on the first sample."""
    if not first and isinstance(header, dict):
        header = {key: header[key] for key in ("version", "status", "eval") if key in header}
    return {"log": header, "sample": sample}


def _samples(reader: _Reader, header: Any) -> Iterator[Numbered]:
    number = 0
    for name in list(reader.entries):
        chunked = _SHELL.fullmatch(name)
        if chunked is None and not _MONOLITH.fullmatch(name):
            continue
        number += 1
        try:
            sample = reader.json(name) if chunked is None else _assembled(reader, chunked[1])
        except _EntryError as error:
            yield Numbered(number, problem=str(error))
            continue
        yield Numbered(number, value(sample, header, number == 1))


def _assembled(reader: _Reader, prefix: str) -> Any:
    """A chunked sample in the shape of a whole one."""
    sample = reader.json(f"{prefix}/sample.json")
    if not isinstance(sample, dict):
        raise _EntryError(f"{prefix}/sample.json: not a JSON object")
    pool = reader.sequence(f"{prefix}/messages/")
    refs = sample.pop("message_refs", None) or []
    try:
        sample["messages"] = [message for start, end in refs for message in pool[start:end]]
    except (TypeError, ValueError):
        raise _EntryError(f"{prefix}/sample.json: its message_refs are no ranges") from None
    sample["events"] = reader.sequence(f"{prefix}/events/")
    sample["attachments"] = {str(n): text for n, text in enumerate(reader.sequence(f"{prefix}/attachments/"))}
    sample["events_data"] = {"messages": pool, "calls": reader.sequence(f"{prefix}/calls/")}
    if f"{prefix}/metadata.json" in reader.entries:
        sample["metadata"] = reader.json(f"{prefix}/metadata.json")
    return sample


class _Reader:
    """Unpacks entries of one archive."""

    def __init__(self, file: BinaryIO, entries: dict[str, zipfile.ZipInfo], limit: int) -> None:
        self.entries = entries
        self._file, self._limit = file, limit

    def header(self) -> Any:
        """The log's header; of a run that is not done, what it said when it started."""
        for name in ("header.json", "_journal/start.json"):
            if name in self.entries:
                return self.json(name)
        return {}

    def sequence(self, prefix: str) -> list[Any]:
        """The items of all chunks below a prefix, in order."""
        chunks: list[tuple[int, str]] = []
        for name in self.entries:
            if name.startswith(prefix) and (chunk := _CHUNK.fullmatch(name, len(prefix))) is not None:
                chunks.append((int(chunk[1]), name))
        items: list[Any] = []
        for start, name in sorted(chunks):
            part = self.json(name)
            if not isinstance(part, list) or start != len(items):
                raise _EntryError(f"{name}: chunks are missing before it, or it is no list")
            items += part
        return items

    def json(self, name: str) -> Any:
        """The parsed entry."""
        raw = self._bytes(self.entries[name])
        try:
            return orjson.loads(raw)
        except ValueError:
            pass
        try:
            # Inspect writes NaN and Infinity, which JSON does not have: kept as the words that they are
            return json.loads(raw, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise _EntryError(f"{name}: not valid JSON: {error}") from None

    def _bytes(self, entry: zipfile.ZipInfo) -> bytes:
        name, size = entry.filename, entry.file_size
        if size > self._limit or entry.compress_size > self._limit:
            raise _EntryError(f"{name}: {size / 1e6:.0f} MB, over the limit of {self._limit / 1e6:.0f} MB")
        if entry.flag_bits & _ENCRYPTED:
            raise _EntryError(f"{name}: is encrypted")
        try:
            packed = self._packed(entry)
            raw = _unpacked(packed, entry.compress_type, size)
        except (OSError, ValueError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise _EntryError(f"{name}: cannot be unpacked: {error}") from None
        if raw is None:
            raise _EntryError(
                f"{name}: zip compression method {entry.compress_type} cannot be read here; "
                "rewrite the log with: inspect log convert --to eval"
            )
        if len(raw) != size or zlib.crc32(raw) != entry.CRC:
            raise _EntryError(f"{name}: is damaged (its size or checksum is not the one that the archive gives)")
        return raw

    def _packed(self, entry: zipfile.ZipInfo) -> bytes:
        self._file.seek(entry.header_offset)
        local = self._file.read(_LOCAL_HEADER)
        if len(local) < _LOCAL_HEADER or local[:4] != b"PK\x03\x04":
            raise ValueError("no entry begins where the archive says so")
        skip = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        self._file.seek(skip, 1)
        packed = self._file.read(entry.compress_size)
        if len(packed) < entry.compress_size:
            raise EOFError("the file is cut off")
        return packed


def _unpacked(packed: bytes, method: int, size: int) -> bytes | None:
    """At most one byte more than `size`, so that an entry that holds more than it says is found out.

    None for an unknown method.
    """
    if method == zipfile.ZIP_STORED:
        return packed
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-15).decompress(packed, size + 1)
    if method == _ZSTD:
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
            return stream.read(size + 1)
    return None
