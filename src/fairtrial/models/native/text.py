"""A reply's text as it grows: whole characters only, cut at stop texts, nothing shown that a stop text may still take.

Legend: none; everything here is text and single token ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairtrial.nn.tokenizer import Stream, Tokenizer


class Text:
    """The text of one completion."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, until: int | None = None) -> None:
        """`until`: the id from which on tokens are no text (the mark of a call); None: all are."""
        self._stream, self._stop, self._until = Stream(tokenizer), tuple(stop), until
        self._pieces: list[str] = []
        self._held = ""
        self._over = False
        self.stopped = False
        """Whether a stop text came."""

    def push(self, index: int) -> str:
        """What can be shown since the last call, after this token."""
        if self._over:
            return ""
        if index == self._until:
            return self.finish()
        return self._show(self._stream.push(index))

    def finish(self) -> str:
        """What was still held back, at the end of the text."""
        if self._over:
            return ""
        shown = self._show(self._stream.close())
        if not self.stopped:
            shown += self._held
            self._pieces.append(self._held)
        self._held, self._over = "", True
        return shown

    @property
    def content(self) -> str:
        """What was shown so far."""
        return "".join(self._pieces)

    def _show(self, piece: str) -> str:
        if self.stopped or not piece:
            return ""
        text = self._held + piece
        # The stop text that is complete first counts, however the text is cut into tokens; of several, the longest.
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = self._over = True
            shown, self._held = text[: min(ends)[1]], ""
        else:
            keep = held_back(text, self._stop)
            shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self._pieces.append(shown)
        return shown


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the start of a stop text."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
