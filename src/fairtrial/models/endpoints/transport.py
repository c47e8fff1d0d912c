"""One exchange over HTTP through a provider's SDK: a JSON body out, a JSON object or a stream of events back.

The SDK keeps connections, keys and headers; its own retries are off and its typed replies are not used, because servers
that call themselves compatible send what those types do not know. Every way in which an exchange can break becomes a
TryFailedError that names it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fairtrial.core.clock import Clock
from fairtrial.models.endpoints.failures import Whose, from_error_object, from_status
from fairtrial.models.endpoints.rates import Waits
from fairtrial.models.endpoints.retrying import TryFailedError
from fairtrial.models.model import Delta

CONNECT_S = 30.0


class Reader(Protocol):
    """Puts a reply together, from one object or from the pieces of a stream. One per try."""

    def whole(self, data: dict[str, Any]) -> Delta | None:
        """Take a reply that came in one object; all of it."""
        ...

    def piece(self, data: dict[str, Any]) -> Delta | None:
        """Take one event of a stream; what it adds."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the provider has said how the reply ended."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a model talks to its provider."""

    client: Any
    """AsyncOpenAI or AsyncAnthropic."""
    sdk: Any
    """The module that it comes from, for its exceptions."""
    whose: Whose
    clock: Clock
    timeout_s: float
    stall_s: float
    max_bytes: int
    headers: Mapping[str, Any]
    """Added to each request; the SDK's `Omit()` takes one away."""

    async def run(
        self,
        path: str,
        body: Mapping[str, Any],
        reader: Reader,
        deliver: Callable[[Delta], None],
        *,
        stream: bool,
        waits: Waits,
    ) -> None:
        """One try: send `body`, feed `reader`, pass what a stream adds to `deliver`.

        Raises:
            TryFailedError: The exchange broke, or brought no reply.
            FilteredError: The provider refuses the content.
            ContextTooLongError: The provider says so.
            UnsupportedError: The provider names a parameter that it does not take.
        """
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                with waits.waiting():
                    response = await self._send(path, body, stream)
                try:
                    kind = response.headers.get("content-type", "").lower()
                    if stream and "event-stream" in kind:
                        await self._read_stream(response, reader, deliver, waits)
                    elif not kind or "json" in kind:
                        if (delta := reader.whole(await self._read_object(response, waits, stream))) is not None:
                            deliver(delta)
                    else:
                        raise TryFailedError("bad_response", f'content type "{kind[:60]}" instead of JSON', status=200)
                finally:
                    await response.aclose()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TryFailedError("timeout", f"no whole reply within timeout_s = {self.timeout_s:g} s") from None

    async def _send(self, path: str, body: Mapping[str, Any], stream: bool) -> Any:
        """The response, its status checked, its body not yet read."""
        import httpx2

        timeout = httpx2.Timeout(None, connect=CONNECT_S, read=self.stall_s if stream else None)
        options = {"timeout": timeout, "follow_redirects": False, "headers": self.headers}
        try:
            return await self.client.post(path, body=body, cast_to=httpx2.Response, options=options, stream=True)
        except self.sdk.APIStatusError as error:
            reply = error.response
            raise from_status(
                reply.status_code, reply.headers, reply.text, now=self.clock.now(), whose=self.whose
            ) from None
        except self.sdk.APITimeoutError as error:
            if isinstance(error.__cause__, httpx2.ConnectTimeout):
                raise TryFailedError("connection", f"no connection within {CONNECT_S:g} s") from None
            raise TryFailedError("stalled", f"no answer within stall_s = {self.stall_s:g} s") from None
        except self.sdk.APIConnectionError as error:
            reason = type(error.__cause__).__name__ if error.__cause__ else "unknown reason"
            raise TryFailedError("connection", f"{reason}: {self.whose.shown(str(error.__cause__ or error))}") from None

    async def _read_object(self, response: Any, waits: Waits, stream: bool) -> dict[str, Any]:
        parts = bytearray()
        async with aclosing(self._chunks(response, waits, stream)) as chunks:
            async for chunk in chunks:
                parts += chunk
        data = _json(bytes(parts))
        self._refuse_error(data)
        return data

    async def _read_stream(self, response: Any, reader: Reader, deliver: Callable[[Delta], None], waits: Waits) -> None:
        events = Events()
        try:
            async with aclosing(self._chunks(response, waits, True)) as chunks:
                async for chunk in chunks:
                    for text in events.feed(chunk):
                        if text == "[DONE]":
                            continue
                        data = _json(text)
                        self._refuse_error(data)
                        if (delta := reader.piece(data)) is not None:
                            deliver(delta)
        except TryFailedError as error:
            if not (reader.complete and error.cause in ("truncated", "stalled")):
                raise  # a stream that breaks behind the end of the reply has brought the whole reply
        if not reader.complete:
            raise TryFailedError("truncated", "the stream ended before the reply did", status=200)

    async def _chunks(self, response: Any, waits: Waits, stream: bool) -> AsyncGenerator[bytes]:
        """The body's bytes as they come; only the network counts as waiting."""
        import httpx2

        seen, chunks = 0, response.aiter_bytes()
        while True:
            try:
                with waits.waiting():
                    chunk = await anext(chunks, None)
            except httpx2.TimeoutException:
                detail = f"no further piece within stall_s = {self.stall_s:g} s" if stream else "no further bytes"
                raise TryFailedError("stalled", detail, status=200) from None
            except (httpx2.RequestError, httpx2.StreamError) as error:
                raise TryFailedError("truncated", f"the reply broke off: {type(error).__name__}", status=200) from None
            if chunk is None:
                return
            seen += len(chunk)
            if seen > self.max_bytes:
                detail = f"the reply is larger than max_reply_mb = {self.max_bytes / 2**20:g} MiB"
                raise TryFailedError("too_large", detail, status=200, retryable=False)
            yield chunk

    def _refuse_error(self, data: dict[str, Any]) -> None:
        if data.get("error"):
            raise from_error_object(data["error"], whose=self.whose)


class Events:
    """Cuts server-sent events out of bytes; yields the data of each."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that `chunk` completes."""
        start = len(self._rest)
        self._rest += chunk
        if self._rest.find(b"\n", start) < 0:
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        found: list[str] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data = []
        return found


def _json(text: bytes | str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise TryFailedError("bad_response", "what the server sent is not valid JSON", status=200) from None
    if not isinstance(data, dict):
        raise TryFailedError("bad_response", f"a JSON {type(data).__name__} instead of an object", status=200)
    return data
