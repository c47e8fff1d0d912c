"""Codec: a record as one line of JSON and back. Keys sorted, defaults left out, secrets redacted.

A string of more than 64 kB is replaced by `{"$blob": {"sha256": ..., "size": ...}}` and comes back on reading. A key
of the user's that looks like that mark gets one more `$` on disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from fairtrial.core.errors import CorruptError, one_line
from fairtrial.core.record import BlobRef, Record
from fairtrial.core.redact import Redactor
from fairtrial.core.trial import BlobSink
from fairtrial.store.blobs import BlobStore
from fairtrial.store.index import Entry, entry

INLINE_BYTES = 64 << 10
_BLOB = "$blob"
_MARK = b'$blob":'
_INDEXED = ("key", "outcome", "cause", "scores", "usage", "timings")
"""What the index is built from stays in the line."""
_LIKE_BLOB = re.compile(r"\$+blob")


def encode(record: Record, redactor: Redactor, blobs: BlobSink) -> tuple[bytes, Entry]:
    r"""One line of JSON without its newline, and what the index keeps of it.

    What JSON cannot hold is written as the nearest thing that it can: NaN and infinities in `details` as null, lone
    surrogates as `\udcXX` spelled out. Raises ValueError where `details` holds objects that are no JSON at all.
    """
    try:
        value = record.model_dump(mode="json", exclude_defaults=True)
    except PydanticSerializationError as error:
        raise ValueError(f"record {record.key} cannot be stored: {one_line(error)}") from error
    if record.trajectory is not None:
        # the discriminator is a default, and yet the one thing that must be there to read the item back
        for item, dumped in zip(record.trajectory.content, value["trajectory"].get("content", ()), strict=False):
            dumped["class_"] = item.class_
    line = _json(value)
    if redactor.suspects(line.decode()):
        value = redactor.value(value)
        line = _json(value)
    one = entry(value)
    if len(line) > INLINE_BYTES or _MARK in line:
        line = _json({key: item if key in _INDEXED else _outsourced(item, blobs) for key, item in value.items()})
    return line, one


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):
        # integers beyond 64 bits, lone surrogates: rare, and nothing to lose a record for
        text = json.dumps(_speakable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()


def _speakable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {_speakable(str(key)): _speakable(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_speakable(item) for item in cast("list[Any]", value)]
    return value


def _outsourced(value: Any, blobs: BlobSink) -> Any:
    if isinstance(value, str):
        # 4 bytes a character at most, so the encoding is paid for long strings only
        if len(value) * 4 > INLINE_BYTES and len(raw := value.encode("utf-8", "backslashreplace")) > INLINE_BYTES:
            return {_BLOB: blobs.put(raw).model_dump()}
        return value
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {f"${key}" if _LIKE_BLOB.fullmatch(key) else key: _outsourced(item, blobs) for key, item in items}
    if isinstance(value, list):
        return [_outsourced(item, blobs) for item in cast("list[Any]", value)]
    return value


def resolve(line: bytes, blobs: BlobStore) -> bytes:
    """The line with its large strings in place again. Raises CorruptError where a blob is missing or damaged."""
    return _json(_insourced(json.loads(line), blobs)) if _MARK in line else line


def _insourced(value: Any, blobs: BlobStore) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        if len(items) == 1 and _BLOB in items:
            return blobs.get(BlobRef.model_validate(items[_BLOB])).decode("utf-8", "backslashreplace")
        return {key[1:] if _LIKE_BLOB.fullmatch(key) else key: _insourced(item, blobs) for key, item in items.items()}
    if isinstance(value, list):
        return [_insourced(item, blobs) for item in cast("list[Any]", value)]
    return value


def decode(line: bytes, blobs: BlobStore) -> Record:
    """The record of a line. Raises CorruptError where it is none, or a blob that it needs is missing or damaged."""
    try:
        return Record.model_validate_json(resolve(line, blobs))
    except (ValidationError, ValueError, RecursionError) as error:
        raise CorruptError(f"a stored line is not a record of this version: {one_line(error)[:300]}") from None


def references(line: bytes) -> list[BlobRef]:
    """Every blob that a line names: outsourced strings, artifacts, what the agent could see. Raises ValueError."""
    found: list[BlobRef] = []
    value = json.loads(line)
    if isinstance(value, dict):
        record = cast("dict[str, Any]", value)
        artifacts = cast("dict[str, Any]", record.get("artifacts") or {})
        found += [
            BlobRef.model_validate(ref) for ref in [*artifacts.values(), record.get("visible")] if ref is not None
        ]
    if _MARK in line:
        _collect(value, found)
    return found


def _collect(value: Any, found: list[BlobRef]) -> None:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        if len(items) == 1 and _BLOB in items:
            found.append(BlobRef.model_validate(items[_BLOB]))
            return
        for item in items.values():
            _collect(item, found)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _collect(item, found)
