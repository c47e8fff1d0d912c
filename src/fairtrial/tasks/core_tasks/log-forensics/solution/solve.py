"""Reads both kinds of log into events in UTC with real clients, and follows the intruder through them."""

import gzip
import json
import re
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

EVIDENCE = Path("/app/evidence")
PROXY, FOLDER, STATIC, MISSING = "10.0.0.5", "/srv/portal/files", "/srv/portal/static", 1532
WEB = re.compile(r'(\S+) - \S+ \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d+) (\d+) "[^"]*" "[^"]*" "([^"]*)"')


def normal(path):
    parts = []
    for part in PurePosixPath(path).parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/" + "/".join(parts)


def lines(folder):
    """All lines of a rotated log, oldest file first."""

    def age(path):
        number = re.search(r"\.(\d+)", path.name.removesuffix(".gz"))
        return -int(number.group(1)) if number else 0

    for path in sorted((EVIDENCE / folder).iterdir(), key=age):
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        yield from text.decode("utf-8").splitlines()


def requests():
    for line in lines("web"):
        peer, at, method, target, status, size, chain = WEB.match(line).groups()
        client = chain.split(",")[-1].strip() if peer == PROXY else peer
        moment = datetime.strptime(at, "%d/%b/%Y:%H:%M:%S %z").strftime("%Y-%m-%dT%H:%M:%SZ")
        yield moment, client, method, urlsplit(target), int(status), int(size)


def system_events():
    """(UTC, text): the local clock runs back once, where it goes from the third hour to the second."""
    offset, before = timedelta(hours=2), None
    for line in lines("auth"):
        local = datetime.strptime("2026 " + line[:15], "%Y %b %d %H:%M:%S")
        if before and local < before:
            offset = timedelta(hours=1)
        before = local
        yield (local - offset).strftime("%Y-%m-%dT%H:%M:%SZ"), line[16:].split(" ", 1)[1]


def guesses(events):
    count = Counter()
    for _, text in events:
        repeated = re.search(r"message repeated (\d+) times: \[ (.*)\]", text)
        failed = re.search(r"Failed password for .* from (\S+) port", repeated.group(2) if repeated else text)
        if failed:
            count[failed.group(1)] += int(repeated.group(1)) if repeated else 1
    return count.most_common(1)[0]


def main():
    web, events = list(requests()), list(system_events())
    outside = []
    for moment, client, _, url, status, size in web:
        if url.path == "/download" and status == 200 and size != MISSING:
            name = unquote(unquote(url.query.partition("file=")[2]))
            path = normal(f"{FOLDER}/{name}")
            if not path.startswith(FOLDER + "/"):
                outside.append((moment, client, path))
    key = next(path for _, _, path in outside if "/.ssh/" in path)
    account = key.split("/")[2]
    got_key = next(moment for moment, _, path in outside if path == key)
    logins = [(moment, re.search(rf"Accepted publickey for {account} from (\S+)", text)) for moment, text in events]
    login = next((moment, found.group(1)) for moment, found in logins if found and moment > got_key and not found.group(1).startswith("192.0.2."))
    later = [text for moment, text in events if moment >= login[0]]
    created = next(found.group(1) for text in later if (found := re.search(r"new user: name=([^,]+)", text)))
    archive = next(found.group(1) for text in later if (found := re.search(rf"COMMAND=\S*tar \S+ {STATIC}(/\S+)", text)))
    fetched = [
        (client, size)
        for _, client, method, url, status, size in web
        if method == "GET" and unquote(url.path) == archive and status in (200, 206)
    ]
    guesser, failures = guesses(events)
    incident = {
        "entry_client": outside[0][1],
        "entry_time": outside[0][0],
        "stolen_key": key,
        "login_account": account,
        "login_source": login[1],
        "login_time": login[0],
        "new_account": created,
        "exfil_path": archive,
        "exfil_bytes": sum(size for _, size in fetched),
        "exfil_clients": sorted({client for client, _ in fetched}),
        "top_guesser": guesser,
        "top_guesser_failures": failures,
    }
    Path("/app/incident.json").write_text(json.dumps(incident, indent=1) + "\n", encoding="utf-8")


main()
