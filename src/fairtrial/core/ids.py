"""Identity: canonical JSON, digests and seeds.

A seed is blake2b over (study seed, task, repeat, stream). The arm is deliberately absent: arms are paired.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from fairtrial.core.errors import UserError

Stream = Literal["sampling", "environment", "order", "retry", "analysis"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,199}")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; equal values give equal bytes. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of bytes, or of the canonical JSON of anything else."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed(study_seed: int, task: str, repeat: int, stream: Stream) -> int:
    """A 63-bit seed for one (task, repeat) block and one named stream; the same for every arm."""
    raw = hashlib.blake2b(canonical_json([study_seed, task, repeat, stream]), digest_size=8).digest()
    return int.from_bytes(raw, "big") >> 1


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be an arm, task or study name (letters, digits and . _ / @ + -); else raise UserError."""
    if not _NAME.fullmatch(name) or ".." in name or "//" in name or name.endswith("/"):
        raise UserError(f"{what} {name!r} is not a valid name: use letters, digits and . _ / @ + - (at most 200)")
    return name
