"""A real server of OpenAI's interface in front of a model, on a thread of its own."""

import asyncio
import threading
from contextlib import contextmanager

from fairtrial.core.clock import SystemClock
from fairtrial.models.serving import listening
from fairtrial.models.serving.server import Serving, build


@contextmanager
def served(model, **serving):
    """The URL (without path) at which `model` is served while inside; it is closed at the end."""
    settings = Serving(hosts=listening.LOOPBACK_NAMES, **serving)
    sock = listening.listen("127.0.0.1", 0)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def main():
        try:
            await listening.run(build(model, settings, SystemClock()), sock, stop, grace_s=2)
        finally:
            await model.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        yield listening.url(sock)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
