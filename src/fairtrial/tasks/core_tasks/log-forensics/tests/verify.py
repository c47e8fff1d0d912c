"""Grades /app/incident.json against the events that the logs were written from."""

import json
import re
from pathlib import Path

import grading

TESTS = Path(__file__).resolve().parent
MISSING_PAGE = 1532


def expected():
    events = json.loads((TESTS / "events.json").read_text(encoding="utf-8"))
    obtained = [row for row in events["outside"] if row[3] != MISSING_PAGE]
    entry = min(obtained)
    key = next(path for _, _, path, _ in obtained if "/.ssh/" in path)
    fetched = [(client, size) for client, method, status, size in events["archive"] if method == "GET" and status in (200, 206)]
    top = max(events["failures"], key=events["failures"].get)
    return {
        "entry_client": entry[1],
        "entry_time": entry[0],
        "stolen_key": key,
        "login_account": events["login"][1],
        "login_source": events["login"][2],
        "login_time": events["login"][0],
        "new_account": events["created"],
        "exfil_path": events["archive_path"],
        "exfil_bytes": sum(size for _, size in fetched),
        "exfil_clients": sorted({client for client, _ in fetched}),
        "top_guesser": top,
        "top_guesser_failures": events["failures"][top],
    }


def equal(key, given, truth):
    if isinstance(truth, int):
        return grading.is_number(given) and given == truth
    if isinstance(truth, list):
        return isinstance(given, list) and all(isinstance(item, str) for item in given) and sorted(given) == truth
    if not isinstance(given, str):
        return False
    if key.endswith("_time"):
        given = re.sub(r"(\.0+)?(Z|\+00:?00)$", "Z", given.strip().replace(" ", "T"))
    return given.strip() == truth


def checks():
    given = grading.want(grading.load_json(grading.APP / "incident.json", 100_000), dict, "incident.json")
    found = []
    for key, truth in expected().items():
        good = key in given and equal(key, given[key], truth)
        found.append((key, float(good), grading.shown(given[key]) if key in given else "missing"))
    return found


grading.grade(checks, grading.mean)
