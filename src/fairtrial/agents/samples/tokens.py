"""The bytes that token ids stand for, for runs whose records hold ids only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairtrial.agents.samples.stretches import BytesOf
from fairtrial.core.errors import UserError
from fairtrial.models import byte_chat

BYTES = "bytes"


def open_bytes(name: str) -> BytesOf:
    """What ids stand for.

    `name`: "bytes" (the scripted models' ids), or a native model's folder or tokenizer.json. Raises UserError.
    """
    if name == BYTES:
        return byte_chat.token_bytes
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f'{name}: no tokenizer there; name a folder with tokenizer.json, or "{BYTES}" for scripted models'
        )
    from fairtrial.nn.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)

    def bytes_of(ids: Sequence[int]) -> list[bytes]:
        return [tokenizer.decode_bytes([index], skip_special=True) for index in ids]

    return bytes_of
