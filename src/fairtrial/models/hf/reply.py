"""A reply's text while it grows: cut at stop texts, and what may be a tool call held back until that is known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fairtrial.models.hf.chat import Chat
from fairtrial.models.hf.words import Words
from fairtrial.models.model import ToolCall
from fairtrial.models.native.text import Text


class Growing:
    """One completion's text; what `push` and `finish` return joins to `content`."""

    def __init__(self, words: Words, stop: Sequence[str], chat: Chat | None) -> None:
        """`chat`: reads tool calls; None where none can come."""
        bytes_: Any = words  # Text needs `decode_bytes` alone
        self._words, self._chat = words, chat
        self._text = Text(bytes_, stop)
        self._shown = 0
        self.content = ""
        """The reply's text; complete after `finish`."""
        self.calls: tuple[ToolCall, ...] = ()
        """After `finish`."""

    @property
    def stopped(self) -> bool:
        """Whether a stop text came."""
        return self._text.stopped

    def push(self, token: int) -> str:
        """What can be shown after one more token."""
        piece = self._text.push(token)
        if self._chat is None:
            self._shown += len(piece)
            return piece
        if not piece:
            return ""
        text = self._text.content
        first, self._shown = self._shown, max(self._shown, self._chat.shown(text))
        return text[first : self._shown]

    def finish(self, ids: Sequence[int], behind: Sequence[int] = ()) -> str:
        """What was still held back; `ids` are all that were sampled, behind the prompt's."""
        self._text.finish()
        self.content = self._text.content
        if self._chat is not None and not self._text.stopped:
            parsed = self._chat.parse(ids, self.content, behind)
            self.content, self.calls = parsed.content, parsed.calls
        return self.content[self._shown :]

    def bytes_of(self, ids: Sequence[int], ends: Collection[int]) -> tuple[bytes, ...]:
        """The bytes that each id stands for; none for an end mark."""
        return tuple(b"" if index in ends else self._words.decode_bytes([index]) for index in ids)
