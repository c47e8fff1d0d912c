"""Whether trajectories come from the tasks, sites or instances that a model will be evaluated on (trap 12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fairtrial.core.ids import digest
from fairtrial.formats.format import Row

_ID_FIELDS = ("instance_id", "task_id", "id")
_SITE_FIELDS = ("root_url", "website", "node_url", "url")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A set of tasks that is used for evaluation: its ids, its sites (hosts), and the texts of its tasks."""

    name: str
    ids: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    """Digests of task texts; see `task_key`."""

    @classmethod
    def of(cls, name: str, ids: Iterable[str] = (), sites: Iterable[str] = (), tasks: Iterable[str] = ()) -> Evaluation:
        """From plain ids, hosts and task texts."""
        return cls(name, frozenset(ids), frozenset(site.lower() for site in sites), frozenset(map(task_key, tasks)))


@dataclass(slots=True)
class Overlap:
    """How many trajectories share an id, a site or a task text with an evaluation."""

    ids: int = 0
    sites: int = 0
    tasks: int = 0
    examples: list[str] = field(default_factory=list[str])


def task_key(text: str) -> str:
    """The same for two texts that differ in case, spaces or punctuation only."""
    return digest(" ".join("".join(c if c.isalnum() else " " for c in text.lower()).split()).encode())[:24]


def host(url: object) -> str:
    """The host of an address, in lower case; "" where there is none."""
    if not isinstance(url, str):
        return ""
    rest = url.partition("://")[2] or url
    return rest.split("/", 1)[0].split("?", 1)[0].rpartition("@")[2].partition(":")[0].lower()


def sites(row: Row) -> Iterator[str]:
    """The hosts that a trajectory saw."""
    details = row.get("details") or {}
    for name in _SITE_FIELDS:
        if found := host(details.get(name)):
            yield found
    for item in row.get("content", ()):
        if item["class_"] == "web_observation" and (found := host(item.get("url"))):
            yield found


def compare(row: Row, evaluations: Iterable[Evaluation], counts: dict[str, Overlap], seen: Counter[str]) -> None:
    """Count a trajectory against each evaluation; `seen` counts the hosts of all."""
    hosts = set(sites(row))
    for site in hosts:
        if site in seen or len(seen) < 1000:
            seen[site] += 1
    details = row.get("details") or {}
    ids = {row["id"].split("~")[0], *(str(details[name]) for name in _ID_FIELDS if name in details)}
    asked = next((item["content"] for item in row.get("content", ()) if item.get("source") == "user"), "")
    for evaluation in evaluations:
        count = counts.setdefault(evaluation.name, Overlap())
        by_id = bool(ids & evaluation.ids)
        by_site = bool(hosts & evaluation.sites)
        by_task = bool(evaluation.tasks) and bool(asked) and task_key(asked) in evaluation.tasks
        count.ids += by_id
        count.sites += by_site
        count.tasks += by_task
        if (by_id or by_site or by_task) and len(count.examples) < 5:
            count.examples.append(row["id"])
