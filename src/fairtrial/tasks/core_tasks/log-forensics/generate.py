"""Makes this task's logs (environment/data/web, auth) and the events behind them (tests/events.json).

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to write
elsewhere); the same data come out each time.
Everything is drawn in UTC and written in each log's own clock at the end.
"""

import gzip
import json
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
PROXY = "10.0.0.5"
INTRUDER, SECOND, GUESSER, LOUD = "203.0.113.77", "198.51.100.23", "203.0.113.150", "198.51.100.200"
KEY = "/home/deploy/.ssh/id_ed25519"
ARCHIVE = "/assets/.cache/fonts-old.tgz"
MISSING = 1532
CHANGE = datetime(2026, 10, 25, 1, 0)
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0", "Mozilla/5.0 (Macintosh) Safari/605.1", "curl/8.5.0", "PortalSync/2.1"]


def utc(text):
    return datetime.strptime("2026-10-" + text, "%Y-%m-%d %H:%M:%S")


def ordinary(rng):
    """Daily traffic, a search robot, scanners that get nowhere."""
    out = []
    pages = ["/", "/login", "/assets/app.css", "/assets/app.js", "/orders", "/orders/7781", "/favicon.ico"]
    files = ["reports%2F2026%2Fq3.pdf", "manual..v2.pdf", "price-list.csv", "img%2Flogo%20new.png", "reports/../price-list.csv"]
    for _ in range(105):
        at = utc("24 05:00:00") + timedelta(seconds=rng.randrange(30 * 3600))
        client = f"198.51.100.{rng.randrange(30, 60)}" if rng.random() < 0.7 else f"192.0.2.{rng.randrange(20, 60)}"
        target, size = rng.choice(pages), rng.randrange(200, 40000)
        if rng.random() < 0.25:
            target, size = "/download?file=" + rng.choice(files), rng.randrange(9000, 90000)
        status = 304 if target.endswith(("css", "js")) and rng.random() < 0.5 else 200
        out.append([at, client, PROXY, None, "GET", target, status, 0 if status == 304 else size, rng.choice(AGENTS[:2])])
    traps = ["..%2f..%2f..%2fetc%2fpasswd", "....//....//etc/passwd", "%2e%2e/%2e%2e/%2e%2e/etc/shadow", "../../../../root/.ssh/id_rsa"]
    for place, trap in enumerate(traps * 2):
        at = utc("24 09:12:00") + timedelta(minutes=47 * place, seconds=rng.randrange(60))
        out.append([at, "203.0.113.9", PROXY, "127.0.0.1", "GET", "/download?file=" + trap, 200, MISSING, "zgrab/0.x"])
    for place in range(5):
        at = utc("24 11:00:00") + timedelta(minutes=3 * place)
        out.append([at, "198.51.100.66", "198.51.100.66", None, "GET", f"/wp-login.php?x={place}", 404, 153, "Nuclei"])
    return out


def intrusion():
    up = "..%252f..%252f..%252f"
    get = "GET"

    def ask(at, client, peer, claim, method, target, status, size, agent="curl/8.5.0"):
        return [utc(at), client, peer, claim, method, target, status, size, agent]

    web = [
        ask("24 20:41:17", INTRUDER, PROXY, None, get, "/download?file=..%2f..%2f..%2fetc%2fpasswd.bak", 200, MISSING),
        ask("24 20:44:52", INTRUDER, PROXY, "192.0.2.15", get, f"/download?file={up}etc%252fhostname", 200, 8),
        ask("24 20:45:30", INTRUDER, PROXY, "192.0.2.15", get, f"/download?file={up}etc%252fpasswd", 200, 2291),
        ask("24 20:48:03", INTRUDER, PROXY, "192.0.2.15", get, f"/download?file={up}root%252f.ssh%252fid_ed25519", 200, MISSING),
        ask("24 20:48:40", INTRUDER, PROXY, "192.0.2.15", get, f"/download?file={up}home%252fjmeyer%252f.ssh%252fid_rsa", 200, MISSING),
        ask("24 23:58:21", INTRUDER, PROXY, "192.0.2.15, 198.51.100.31", get, f"/download?file={up}home%252fdeploy%252f.ssh%252fid_ed25519", 200, 411),
        ask("25 02:02:11", SECOND, SECOND, PROXY, "HEAD", ARCHIVE, 200, 0),
        ask("25 02:03:40", SECOND, SECOND, PROXY, get, ARCHIVE, 499, 65536),
        ask("25 02:04:02", SECOND, SECOND, "198.51.100.40", get, ARCHIVE, 206, 524288),
        ask("25 02:09:15", INTRUDER, PROXY, "192.0.2.15", get, ARCHIVE + "?v=2", 206, 524288),
        ask("25 02:11:48", INTRUDER, PROXY, None, get, "/assets/%2ecache/fonts-old.tgz", 206, 188417),
        ask("25 05:41:00", "203.0.113.88", PROXY, "198.51.100.23", get, ARCHIVE, 200, 1236993, "Wget/1.21"),
        ask("25 08:30:10", "198.51.100.35", PROXY, None, get, "/assets/fonts-old.tgz", 404, 153, "Mozilla/5.0 (compatible; searchbot)"),
        ask("25 09:12:10", INTRUDER, PROXY, None, get, ARCHIVE, 404, 153),
    ]
    auth = [
        ("25 01:31:09", "sshd[{p}]: Accepted publickey for deploy from 198.51.100.23 port 50122 ssh2: ED25519 SHA256:Qm7c0xk2"),
        ("25 01:31:09", "sshd[{p}]: pam_unix(sshd:session): session opened for user deploy(uid=998) by (uid=0)"),
        ("25 01:33:40", "sudo:   deploy : TTY=pts/1 ; PWD=/home/deploy ; USER=root ; COMMAND=/usr/bin/id"),
        ("25 01:35:02", "sudo:   deploy : TTY=pts/1 ; PWD=/home/deploy ; USER=root ; COMMAND=/usr/sbin/useradd -m -G sudo svc-backup"),
        ("25 01:35:02", "useradd[{p}]: new user: name=svc-backup, UID=1007, GID=1007, home=/home/svc-backup, shell=/bin/sh, from=/dev/pts/1"),
        ("25 01:58:30", "sudo:   deploy : TTY=pts/1 ; PWD=/tmp ; USER=root ; COMMAND=/usr/bin/tar czf /srv/portal/static/assets/.cache/fonts-old.tgz /srv/portal/db"),
        ("25 02:20:54", "sshd[{p}]: Received disconnect from 198.51.100.23 port 50122:11: disconnected by user"),
        ("25 06:10:37", "sshd[{p}]: Accepted password for svc-backup from 203.0.113.88 port 41877 ssh2"),
    ]
    return web, [(utc(at), text) for at, text in auth]


def background_auth(rng):
    """Cron, the CI runner, staff, guessing; and the number of failures of each address."""
    out, failures = [], {}
    at = utc("24 14:17:01")
    while at < utc("25 09:00:00"):
        out.append((at, "CRON[{p}]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)"))
        at += timedelta(minutes=60 if not utc("24 22:00:00") < at < utc("25 04:00:00") else 30)
    at = utc("24 16:30:00")
    while at < utc("25 07:00:00"):
        out.append((at, f"sshd[{{p}}]: Accepted publickey for deploy from 192.0.2.10 port {rng.randrange(40000, 60000)} ssh2: ED25519 SHA256:Qm7c0xk2"))
        at += timedelta(hours=1)
    out.append((utc("24 15:03:20"), "sudo:   jmeyer : TTY=pts/0 ; PWD=/home/jmeyer ; USER=root ; COMMAND=/usr/sbin/useradd -m trainee7"))
    out.append((utc("24 15:03:20"), "useradd[{p}]: new user: name=trainee7, UID=1006, GID=1006, home=/home/trainee7, shell=/bin/bash, from=/dev/pts/0"))

    def fail(at, who, address, repeats=0):
        text = f"Failed password for {who} from {address} port {rng.randrange(20000, 60000)} ssh2"
        out.append((at, f"sshd[{{p}}]: {text}"))
        if repeats:
            out.append((at + timedelta(seconds=9), f"sshd[{{p}}]: message repeated {repeats} times: [ {text}]"))
        failures[address] = failures.get(address, 0) + 1 + repeats

    for place in range(5):
        fail(utc("25 00:22:10") + timedelta(seconds=7 * place), "jmeyer", "192.0.2.44")
    out.append((utc("25 00:22:58"), "sshd[{p}]: Accepted password for jmeyer from 192.0.2.44 port 51500 ssh2"))
    names = ["root", "root", "invalid user admin", "invalid user oracle", "invalid user test", "invalid user deploy1"]
    for place in range(27):
        who = names[place % len(names)]
        moment = utc("24 19:02:00") + timedelta(minutes=17 * place, seconds=rng.randrange(50))
        if who.startswith("invalid"):
            out.append((moment - timedelta(seconds=2), f"sshd[{{p}}]: Invalid user {who.split()[-1]} from {LOUD} port 3022"))
        fail(moment, who, LOUD)
    for place, repeats in enumerate([0, 5, 4, 0, 5, 5, 3, 4, 2]):
        fail(utc("24 21:10:00") + timedelta(minutes=31 * place, seconds=rng.randrange(50)), names[place % 3], GUESSER, repeats)
    for place in range(4):
        fail(utc("24 23:40:00") + timedelta(minutes=22 * place), "root", f"203.0.113.{101 + place}", 2)
    out.append((utc("25 03:00:12"), f"sshd[{{p}}]: error: maximum authentication attempts exceeded for root from {GUESSER} port 30111 ssh2 [preauth]"))
    return out, failures


def web_line(row):
    at, client, peer, claim, method, target, status, size, agent = row
    chain = ", ".join(part for part in [claim, client] if part) if peer == PROXY else claim or "-"
    return f'{peer} - - [{at.strftime("%d/%b/%Y:%H:%M:%S")} +0000] "{method} {target} HTTP/1.1" {status} {size} "-" "{agent}" "{chain}"'


def local(at):
    """portal1's own clock: MON DD HH:MM:SS without zone."""
    return (at + timedelta(hours=2 if at < CHANGE else 1)).strftime("%b %d %H:%M:%S")


def main():
    rng = random.Random(20261025)
    deeds, logins = intrusion()
    web = sorted(ordinary(rng) + deeds, key=lambda row: row[0])
    others, failures = background_auth(rng)
    auth = sorted(others + logins, key=lambda event: event[0])
    folder = ROOT / "environment/data"
    for name in ("web", "auth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cuts = [utc("24 22:00:00"), utc("25 02:10:00")]
    pieces = ["", "", ""]
    for row in web:
        pieces[sum(row[0] >= cut for cut in cuts)] += web_line(row) + "\n"
    (folder / "web/access.log.2.gz").write_bytes(gzip.compress(pieces[0].encode(), 9, mtime=0))
    (folder / "web/access.log.1").write_text(pieces[1], encoding="utf-8", newline="")
    (folder / "web/access.log").write_text(pieces[2], encoding="utf-8", newline="")
    pieces, number = ["", ""], 4100
    for at, text in auth:
        number += rng.randrange(1, 20)
        pieces[at >= utc("25 05:25:00")] += f"{local(at)} portal1 {text.format(p=number)}\n"
    (folder / "auth/auth.log.1").write_text(pieces[0], encoding="utf-8", newline="")
    (folder / "auth/auth.log").write_text(pieces[1], encoding="utf-8", newline="")
    (ROOT / "tests").mkdir(exist_ok=True)
    events = {
        "outside": [[row[0].isoformat() + "Z", row[1], path, row[7]] for row, path in zip(deeds[1:6], [
            "/etc/hostname", "/etc/passwd", "/root/.ssh/id_ed25519", "/home/jmeyer/.ssh/id_rsa", KEY], strict=True)],
        "archive": [[row[1], row[4], row[6], row[7]] for row in deeds[6:12]],
        "archive_path": ARCHIVE,
        "login": [logins[0][0].isoformat() + "Z", "deploy", SECOND],
        "created": "svc-backup",
        "failures": failures,
    }  # fmt: skip
    (ROOT / "tests/events.json").write_text(json.dumps(events, indent=1) + "\n", encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
