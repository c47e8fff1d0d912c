"""OpenAI's HTTP JSON, written: replies, chunks of a stream, and errors with their status.

Token ids are given as vLLM gives them: `prompt_token_ids` beside the choices (in the choice for completions) and
`token_ids` in the choice; an assistant's message also carries its `token_ids`, so that a client which sends the
message back sends the ids back too. A token's text is given where the model tells its bytes, else `token_id:N`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from fairtrial.core.errors import InfraError, UserError, one_line
from fairtrial.core.limits import Usage
from fairtrial.models.model import ContextTooLongError, Delta, Reply, ToolCall, UnsupportedError
from fairtrial.models.serving.wire import Asked, WireError


def answer(reply: Reply, asked: Asked, ident: str, created: int) -> dict[str, Any]:
    """The JSON of a whole reply. `ident`: of this answer; `created`: seconds since 1970."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish, "logprobs": None}
    if asked.kind == "chat":
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.message.reasoning is not None:
            message["reasoning_content"] = reply.message.reasoning
        if reply.message.tool_calls:
            message["tool_calls"] = [_call(call) for call in reply.message.tool_calls]
            message["content"] = reply.text or None
        if asked.token_ids and reply.message.token_ids is not None:
            message["token_ids"] = reply.message.token_ids
        choice["message"] = message
    else:
        choice["text"] = reply.text
    if asked.logprobs:
        choice["logprobs"] = _logprobs(asked, reply.completion_ids or (), reply.logprobs or (), reply.token_bytes, 0)
    body = _envelope(
        asked, ident, created, reply.model, "chat.completion" if asked.kind == "chat" else "text_completion"
    )
    body |= {"choices": [choice], "usage": usage(reply.usage)}
    if asked.token_ids:
        choice["token_ids"] = reply.completion_ids
        (body if asked.kind == "chat" else choice)["prompt_token_ids"] = reply.prompt_ids
    return body


class Chunks:
    """The chunks of one streamed reply, in order: `delta` for each piece, then `end`.

    What the pieces left out (a model that does not stream, an end mark, tool calls) comes with `end`.
    """

    def __init__(self, asked: Asked, ident: str, created: int, model: str) -> None:
        self._asked, self._started = asked, False
        object_ = "chat.completion.chunk" if asked.kind == "chat" else "text_completion"
        self._envelope = _envelope(asked, ident, created, model, object_)
        self._text = self._reasoning = self._ids = self._offset = 0

    def delta(self, piece: Delta) -> dict[str, Any] | None:
        """The chunk of one piece; None for a piece of which nothing is to be told (the tokens of a tool call)."""
        self._text += len(piece.text)
        self._reasoning += len(piece.reasoning)
        self._ids += len(piece.token_ids)
        if not (piece.text or piece.reasoning or self._asked.token_ids or self._asked.logprobs):
            return None
        chunk = self._chunk(self._words(piece.text, piece.reasoning))
        self._tokens(chunk["choices"][0], piece.token_ids, piece.logprobs, piece.token_bytes)
        self._offset = self._text
        return chunk

    def end(self, reply: Reply) -> list[dict[str, Any]]:
        """The last chunks: the rest of the reply with the reason of its end, and the usage where it is wanted."""
        words = self._words(reply.text[self._text :], (reply.message.reasoning or "")[self._reasoning :])
        if self._asked.kind == "chat" and reply.message.tool_calls:
            words["delta"]["tool_calls"] = [
                {"index": index, **_call(call)} for index, call in enumerate(reply.message.tool_calls)
            ]
        last = self._chunk(words)
        choice = last["choices"][0]
        choice["finish_reason"] = reply.finish
        done = self._ids
        texts = None if reply.token_bytes is None else reply.token_bytes[done:]
        self._tokens(choice, (reply.completion_ids or ())[done:], (reply.logprobs or ())[done:], texts)
        if self._asked.token_ids:
            (last if self._asked.kind == "chat" else choice)["prompt_token_ids"] = reply.prompt_ids
            if self._asked.kind == "chat" and reply.message.token_ids is not None:
                choice["delta"]["token_ids"] = reply.message.token_ids
        if not self._asked.include_usage:
            return [last]
        return [last, self._envelope | {"choices": [], "usage": usage(reply.usage)}]

    def _words(self, text: str, reasoning: str) -> dict[str, Any]:
        if self._asked.kind == "completion":
            return {"text": text}
        delta: dict[str, Any] = {} if self._started else {"role": "assistant"}
        self._started = True
        if text:
            delta["content"] = text
        if reasoning:
            delta["reasoning_content"] = reasoning
        return {"delta": delta}

    def _chunk(self, words: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": None, "logprobs": None, **words}
        usage_field = {"usage": None} if self._asked.include_usage else {}
        return self._envelope | {"choices": [choice]} | usage_field

    def _tokens(
        self, choice: dict[str, Any], ids: Sequence[int], logprobs: Sequence[float], texts: Sequence[bytes] | None
    ) -> None:
        if self._asked.token_ids:
            choice["token_ids"] = ids
        if self._asked.logprobs and ids:
            choice["logprobs"] = _logprobs(self._asked, ids, logprobs, texts, self._offset)


def usage(spent: Usage) -> dict[str, Any]:
    """The usage of one reply."""
    return {
        "prompt_tokens": spent.input_tokens,
        "completion_tokens": spent.output_tokens,
        "total_tokens": spent.tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
    }


def failure(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error that a client is told. What is a bug here is told by its class alone."""
    headers: dict[str, str] = {}
    if isinstance(error, ContextTooLongError):
        status, body = 400, error_body(one_line(error), "invalid_request_error", "messages", "context_length_exceeded")
    elif isinstance(error, WireError):
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "server_error"}
        name = kind.get(error.status, "invalid_request_error")
        status, body = error.status, error_body(one_line(error), name, error.param, error.code)
    elif isinstance(error, UserError):
        code = "unsupported" if isinstance(error, UnsupportedError) else None
        status, body = 400, error_body(one_line(error), "invalid_request_error", None, code)
    elif isinstance(error, InfraError):
        limited = error.cause == "rate_limit"
        status = 429 if limited else 503
        body = error_body(one_line(error), "rate_limit_error" if limited else "server_error", None, error.cause)
        if error.retry_after_s is not None:
            headers["retry-after"] = f"{max(0.0, error.retry_after_s):g}"
        if not error.retryable:
            headers["x-should-retry"] = "false"
    else:
        text = f"the server failed ({type(error).__name__}); its log says where"
        status, body = 500, error_body(text, "server_error", None, "internal_error")
    return status, body, headers


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_list(names: Sequence[str], created: int) -> dict[str, Any]:
    """The JSON of GET /v1/models."""
    return {"object": "list", "data": [model_entry(name, created) for name in names]}


def model_entry(name: str, created: int) -> dict[str, Any]:
    """The JSON of GET /v1/models/NAME."""
    return {"id": name, "object": "model", "created": created, "owned_by": "fairtrial"}


def _envelope(asked: Asked, ident: str, created: int, model: str, object_: str) -> dict[str, Any]:
    prefix = "chatcmpl" if asked.kind == "chat" else "cmpl"
    return {"id": f"{prefix}-{ident}", "object": object_, "created": created, "model": model}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _logprobs(
    asked: Asked, ids: Sequence[int], logprobs: Sequence[float], texts: Sequence[bytes] | None, offset: int
) -> dict[str, Any]:
    tokens = [f"token_id:{i}" for i in ids] if texts is None else [t.decode("utf-8", "replace") for t in texts]
    if asked.kind == "chat":
        entries: list[dict[str, Any]] = [
            {"token": token, "logprob": logprob, "bytes": None if texts is None else list(texts[index])}
            for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=False))
        ]
        return {"content": [e | {"top_logprobs": [e] if asked.top else []} for e in entries], "refusal": None}
    # More than the sampled token is not kept: at a temperature above 0 the most likely one is not known.
    sure = asked.top == 1 and asked.request.sampling.temperature == 0
    return {
        "tokens": tokens,
        "token_logprobs": list(logprobs),
        "top_logprobs": [{t: p} for t, p in zip(tokens, logprobs, strict=False)] if sure else None,
        "text_offset": [] if texts is None else _offsets(texts, offset),
    }


def _offsets(texts: Sequence[bytes], start: int) -> list[int]:
    """Where each token's text starts, in characters; a token inside a character starts with the character."""
    decoder, offsets = codecs.getincrementaldecoder("utf-8")("replace"), [start]
    for text in texts:
        offsets.append(offsets[-1] + len(decoder.decode(text)))
    return offsets[:-1]
