"""A tokenizer of transformers as ids and bytes, and text that can forge no special token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class Words:
    """A tokenizer's vocabulary in bytes. Decoding is safe from any thread, encoding from one at a time."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `PreTrainedTokenizerBase`."""
        self.tokenizer = tokenizer
        self._ids: dict[str, int] = dict(tokenizer.get_vocab())
        self.vocab_size: int = 1 + max(self._ids.values(), default=-1)
        added = tokenizer.added_tokens_decoder
        self.added: dict[str, int] = {str(token.content): int(index) for index, token in added.items()}
        self.specials: dict[str, int] = {str(t.content): int(i) for i, t in added.items() if t.special}
        self._bytes = self._table()
        self._plain: Any = None

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The bytes that ids stand for; a special token stands for its marker, an id of no token for nothing."""
        table, hidden = self._bytes, set(self.specials.values()) if skip_special else frozenset()
        return b"".join(table[index] for index in ids if index not in hidden and 0 <= index < len(table))

    def decode(self, ids: Iterable[int]) -> str:
        """`decode_bytes` as text, U+FFFD for bytes that are not UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of a text in which special tokens count; `start`: with what the model expects at the start of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=start))

    def encode_bytes(self, text: bytes | str) -> list[int]:
        """Ids of a text as plain text: no special or other added token comes out of it."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if not getattr(self.tokenizer, "is_fast", False):
            return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        if self._plain is None:
            import tokenizers

            data = self._document()
            data["added_tokens"], data["post_processor"], data["truncation"], data["padding"] = [], None, None, None
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(data))
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _document(self) -> dict[str, Any]:
        return json.loads(self.tokenizer.backend_tokenizer.to_str())

    def _table(self) -> list[bytes]:
        """Bytes by id: GPT-2's byte alphabet, SentencePiece's pieces, or what decoding behind another token shows."""
        decoder = json.dumps(self._document().get("decoder")) if getattr(self.tokenizer, "is_fast", False) else ""
        table = [b""] * self.vocab_size
        if '"ByteLevel"' in decoder:
            alphabet = byte_alphabet()
            for token, index in self._ids.items():
                known = all(char in alphabet for char in token)
                table[index] = bytes(alphabet[char] for char in token) if known else token.encode()
        elif "\\u2581" in decoder or '"Metaspace"' in decoder:
            for token, index in self._ids.items():
                table[index] = _piece(token)
        else:
            self._by_decoding(table)
        for token, index in self.added.items():
            table[index] = token.encode()
        return table

    def _by_decoding(self, table: list[bytes]) -> None:
        anchor = next((i for i in self._ids.values() if i not in self.added.values() and self._text([i]).strip()), None)
        head = "" if anchor is None else self._text([anchor])
        for index in self._ids.values():
            text = self._text([index] if anchor is None else [anchor, index])
            table[index] = text.removeprefix(head).encode()

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def byte_alphabet() -> dict[str, int]:
    """Character -> byte of GPT-2's byte-level alphabet: printable Latin-1 is itself, the rest from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(own)]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def _piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("\u2581", " ").encode()
