"""What the server did, in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from fairtrial.models.model import Reply
from fairtrial.models.serving.slots import Slots

_BOUNDS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server. A request that the client gave up has status 499."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0
        self._prompt = self._cached = self._completion = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request is over; `seconds` from its first byte to its last, waiting included."""
        self._requests[route, status] += 1
        self._seconds += seconds
        self._buckets[next((bound for bound in _BOUNDS_S if seconds <= bound), float("inf"))] += 1

    def count_tokens(self, reply: Reply) -> None:
        """The tokens of a reply."""
        self._prompt += reply.usage.input_tokens
        self._cached += reply.usage.cached_tokens
        self._completion += reply.usage.output_tokens

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        lines: list[str] = []

        def metric(name: str, kind: str, about: str, values: Mapping[str, float]) -> None:
            lines.extend((f"# HELP fairtrial_{name} {about}", f"# TYPE fairtrial_{name} {kind}"))
            lines.extend(f"fairtrial_{name}{label} {value}" for label, value in values.items())

        requests = {
            f'{{route="{route}",status="{status}"}}': count for (route, status), count in sorted(self._requests.items())
        }
        metric("requests_total", "counter", "Requests that are over, by HTTP status; 499: the client left.", requests)
        metric("requests_running", "gauge", "Requests that hold a slot.", {"": self._slots.running})
        metric("requests_waiting", "gauge", "Requests that wait for a slot.", {"": self._slots.waiting})
        tokens = {"prompt": self._prompt, "cached": self._cached, "completion": self._completion}
        metric(
            "tokens_total",
            "counter",
            "Tokens of the replies; cached ones are prompt tokens too.",
            {f'{{kind="{kind}"}}': value for kind, value in tokens.items()},
        )
        metric("request_seconds", "histogram", "From a request's start to its end.", dict(self._histogram()))
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterator[tuple[str, float]]:
        total = 0
        for bound in (*_BOUNDS_S, float("inf")):
            total += self._buckets[bound]
            yield f'_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}}', total
        yield "_sum", self._seconds
        yield "_count", total
