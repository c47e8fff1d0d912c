"""How a model puts a conversation into ids, for training: prompts as when it is served, replies as it says them.

No torch here. `NativeSpeaker` is for the native family, `HubSpeaker` for causal language models of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fairtrial.core.errors import UserError
from fairtrial.models.hf.chat import Chat as HubChat
from fairtrial.models.hf.words import Words
from fairtrial.models.model import Message
from fairtrial.models.native.chat import Chat as NativeChat
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.opening import model_settings
from fairtrial.nn.tokenizer import Tokenizer

Tools = Sequence[dict[str, Any]]


class Speaker(Protocol):
    """A model's chat template and tokenizer."""

    name: str
    vocab_size: int

    def shown(self, message: Message) -> Message:
        """An assistant's message as this model would hold it (native models think in their text)."""
        ...

    def said(self, messages: Sequence[Message], tools: Tools) -> list[int] | None:
        """Ids of the last message as the model samples it, end mark included; None where its template allows none."""
        ...

    def prompts(self, messages: Sequence[Message], tools: Tools, places: Sequence[int]) -> list[list[int]]:
        """For each place the ids of the messages before it, up to where the reply begins; places ascend."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id, none of a mark."""
        ...

    def spelled(self, index: int) -> str:
        """One id as text for people, marks by their names."""
        ...


class NativeSpeaker:
    """The native family's turns; see `models.native.chat`."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        """Raises UserError where the tokenizer lacks the marks of conversations."""
        self.name, self.vocab_size = name, tokenizer.vocab_size
        self._tokenizer = tokenizer
        self._chat = NativeChat(tokenizer, where=name)
        self._agent = tokenizer.special("<|agent|>")

    def shown(self, message: Message) -> Message:
        """Thinking becomes `<think>..</think>` in front of the text."""
        if not message.reasoning:
            return message
        content = f"<think>\n{message.reasoning}\n</think>\n{message.content}"
        return message.model_copy(update={"content": content, "reasoning": None})

    def said(self, messages: Sequence[Message], tools: Tools) -> list[int] | None:
        """Text, calls and the end mark."""
        return self._chat.prompt((messages[-1].model_copy(update={"token_ids": None}),))[1:-1]

    def prompts(self, messages: Sequence[Message], tools: Tools, places: Sequence[int]) -> list[list[int]]:
        """All of them are beginnings of the last one."""
        whole = self._chat.prompt(messages[: places[-1]], tools)
        opened = [place + 1 for place, index in enumerate(whole) if index == self._agent]
        before = [sum(message.role == "assistant" for message in messages[:place]) for place in places]
        if len(opened) != before[-1] + 1:  # a sampled reply holds the mark itself
            return [self._chat.prompt(messages[:place], tools) for place in places]
        return [whole[: opened[count]] for count in before]

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """See `Speaker.pieces`."""
        return [self._tokenizer.decode_bytes([index], skip_special=True) for index in ids]

    def spelled(self, index: int) -> str:
        """See `Speaker.spelled`."""
        return self._tokenizer.decode([index])


class HubSpeaker:
    """A chat template of transformers; see `models.hf.chat`."""

    def __init__(self, words: Words, ends: frozenset[int], name: str) -> None:
        """`ends`: ids that end a reply."""
        self.name, self.vocab_size = name, words.vocab_size
        self._words, self._chat = words, HubChat(words, ends, name)

    def shown(self, message: Message) -> Message:
        """As it is: thinking is the template's affair."""
        return message

    def said(self, messages: Sequence[Message], tools: Tools) -> list[int] | None:
        """What the template writes for the last message."""
        return self._chat.said(messages, tools)

    def prompts(self, messages: Sequence[Message], tools: Tools, places: Sequence[int]) -> list[list[int]]:
        """Each rendered by itself."""
        return [self._chat.prompt(messages[:place], tools).ids for place in places]

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """See `Speaker.pieces`."""
        return [self._words.decode_bytes([index], skip_special=True) for index in ids]

    def spelled(self, index: int) -> str:
        """See `Speaker.spelled`."""
        return self._words.decode([index])


def open_speaker(spec: str | dict[str, Any], base: Path) -> Speaker:
    """The speaker of a model, without its weights. Raises UserError.

    Args:
        spec: native:FOLDER or hf:FOLDER.
        base: The folder that relative paths start from.
    """
    _, settings = model_settings(spec)
    folder = base / Path(str(getattr(settings, "path", ""))).expanduser()
    if isinstance(settings, NativeSettings):
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder / 'tokenizer.json'}: no such file; name a native model's folder")
        return NativeSpeaker(Tokenizer.load(folder / "tokenizer.json"), folder.name)
    from fairtrial.models.hf.kind import HuggingFaceSettings

    if not isinstance(settings, HuggingFaceSettings):
        raise UserError(f'model: only native:FOLDER and hf:FOLDER have a tokenizer here, not "{spec}"')
    from fairtrial.models.hf.loading import open_tokenizer

    tokenizer, name = open_tokenizer(settings, base)
    ends = frozenset(() if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),))
    return HubSpeaker(Words(tokenizer), ends, name)
