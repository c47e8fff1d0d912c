"""Replies held to a JSON schema or a regular expression, through llguidance: a mask of the tokens that may come next.

The end mark is allowed exactly where the text is complete. No other special token ever is.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.models.model import Sampling
from fairtrial.nn.tokenizer import Tokenizer


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, end: int, vocab: int) -> None:
        """`vocab`: width of the model's logits, at least that of the tokenizer."""
        self._tokenizer, self._end, self._vocab = tokenizer, end, vocab
        self._inner: Any = None

    def matcher(self, sampling: Sampling) -> Matcher | None:
        """A matcher at its start, or None where the request has no grammar.

        Raises UserError, one line, for a schema or an expression that is not supported.
        """
        if sampling.json_schema is None and sampling.regex is None:
            return None
        library = _library()
        if self._inner is None:
            self._inner = library.LLTokenizer(library.TokenizerWrapper(_Words(self._tokenizer, self._end)))
        field = "json_schema" if sampling.json_schema is not None else "regex"
        try:
            if sampling.json_schema is not None:
                grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(sampling.json_schema))
            else:
                grammar = library.LLMatcher.grammar_from_regex(sampling.regex)
        except ValueError as error:
            raise UserError(f"sampling.{field}: {_first_line(error)}") from None
        inner = library.LLMatcher(self._inner, grammar, log_level=0)
        if inner.is_error():
            raise UserError(f"sampling.{field}: not supported: {_first_line(inner.get_error())}")
        return Matcher(inner, self._end, self._vocab)


class Matcher:
    """Where one reply stands in its grammar."""

    def __init__(self, inner: Any, end: int, vocab: int) -> None:
        self._inner, self._end, self._vocab = inner, end, vocab

    def allowed(self) -> Tensor:
        """Bool [vocab]: what may come next; only the end mark where nothing else can.

        Raises UserError where the grammar became too large to follow.
        """
        if self._inner.is_stopped() and not self._inner.is_error():
            out = torch.zeros(self._vocab, dtype=torch.bool)
            out[self._end] = True
            return out
        bias = self._inner.compute_logit_bias()
        if self._inner.is_error():
            raise UserError(f"sampling: the grammar cannot be followed: {_first_line(self._inner.get_error())}")
        known = torch.frombuffer(bytearray(bias), dtype=torch.uint8)[: self._vocab] > 0
        return torch.nn.functional.pad(known, (0, self._vocab - len(known)))

    def accept(self, token: int) -> None:
        """Move on by a token that was allowed."""
        if token != self._end:
            self._inner.consume_token(token)


class _Words:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id = end
        self.bos_token_id = None
        specials = set(tokenizer.specials.values())
        self.special_token_ids = sorted(specials)
        self.tokens = [tokenizer.decode_bytes([index]) for index in range(tokenizer.vocab_size)]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode_bytes(text)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else "unknown reason"


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError('llguidance is not installed; install with: pip install "fairtrial[local]"') from None
    return llguidance
