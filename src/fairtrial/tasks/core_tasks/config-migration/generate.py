"""Writes the two legacy files (environment/data) and the settings that they mean (tests/settings.json).

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to
write elsewhere). The files are written by hand, below,
and the settings too: nothing here parses the one to get the other.
"""

import json
import sys
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent

GATEWAY = r'''# gateway.ini - shipped defaults, do not edit (edit site.ini)
[global]
Environment = development
data-dir    = /srv/gateway/%(environment)s
log-dir     = /var/log/gateway        ; rotated weekly
debug       = Off
banner      = "Gateway; \"internal\" build # 7"
root_dir    = /srv/gateway
support     = ops@example.invalid ; mailbox, not a person

[server]
listen          = 0.0.0.0:8080
admin_ports     = 9000-9003
workers         = 008
use-epoll       = yes
max-body        = 512k
idle-timeout    = 75
request-timeout = 1m30s
shed-load-at    = 85%%
no-keepalive    = no
file-mode       = 0640
allowed-origins = https://example.invalid,
    https://shop.example.invalid,   ; the shop
    # the intranet is listed in site.ini
    "https://a.example.invalid, https://b.example.invalid",
Motd-File       = %(data_dir)s/motd.txt

[cache]
disable = false
memory  = 64M
ttl     = 2d
vary-on = Accept, Accept-Language

[logging]
file      = %(log-dir)s/%(environment)s.log
level     = INFO
format    = %%h %%t "%%r" ${POD_NAME}
rotate-at = 1G

[auth]
password       = p#ss;word%%21 ; set by the installer
realm          = "Example"
token-lifetime = 1h
key-id         = 0x1F
legacy-hash    = md5

[backend:Orders]
url            = http://orders.example.invalid:7001/
weight         = 10
timeout        = 250ms
healthy-status = 200-204

[backend:images]
url     = http://images.example.invalid:7002/;v=2
weight  = 010
timeout = 1h0m5s

[backend:Legacy]
url     = http://%(host)s:7003/%(environment)s
host    = old.example.invalid
enabled = off
'''

SITE = r'''; site.ini - this installation
[GLOBAL]
environment = production
debug       =
region      = eu-north

[Server]
listen       = [2001:db8::17]:8443
max_body     = 2m ; uploads
IDLE-TIMEOUT = 0
no_keepalive = ON
admin-ports  = 9100
h2-window    = 65535

[backend:orders]
weight  = 25
timeout =

[cache]
memory  = 65536
Disable = 1
vary_on =

[backend:search]
url            = "http://search.example.invalid/?q=%(term)s;x"
weight         = 5
timeout        = 1500ms
healthy-status = 200
enabled        = YES
owner          = team-search

[logging]
level = Warning
colour = "%(none)s"

[server]
request-timeout = 1m
    30s
workers = 12

[auth]
realm = "Example \\ \"north\""
'''

SETTINGS = {
    "environment": "production",
    "paths": {"data": "/srv/gateway/production", "logs": "/var/log/gateway"},
    "banner": 'Gateway; "internal" build # 7',
    "server": {
        "host": "2001:db8::17",
        "port": 8443,
        "admin_ports": [9100],
        "workers": 12,
        "keepalive": False,
        "origins": [
            "https://example.invalid",
            "https://shop.example.invalid",
            "https://a.example.invalid, https://b.example.invalid",
        ],
        "file_mode": "0640",
    },
    "limits": {"body_bytes": 2097152, "idle_ms": 0, "request_ms": 90000, "shed_load": 0.85},
    "cache": {"enabled": False, "memory_bytes": 65536, "ttl_ms": 172800000},
    "log": {
        "file": "/var/log/gateway/production.log",
        "level": "warning",
        "format": '%h %t "%r" ${POD_NAME}',
        "rotate_bytes": 1073741824,
    },
    "auth": {"password": "p#ss;word%21", "realm": 'Example \\ "north"', "token_ms": 3600000, "key_id": 31},
    "backends": [
        {"name": "Orders", "url": "http://orders.example.invalid:7001/", "weight": 25, "healthy_status": [200, 201, 202, 203, 204], "enabled": True},
        {"name": "images", "url": "http://images.example.invalid:7002/;v=2", "weight": 10, "timeout_ms": 3605000, "enabled": True},
        {"name": "Legacy", "url": "http://old.example.invalid:7003/production", "enabled": False},
        {"name": "search", "url": "http://search.example.invalid/?q=%(term)s;x", "weight": 5, "timeout_ms": 1500, "healthy_status": [200], "enabled": True},
    ],
    "extra": {
        "global.root_dir": "/srv/gateway",
        "global.support": "ops@example.invalid",
        "global.region": "eu-north",
        "server.motd_file": "/srv/gateway/production/motd.txt",
        "server.h2_window": "65535",
        "logging.colour": "%(none)s",
    },
}  # fmt: skip


def main():
    folder = ROOT / "environment/data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.ini").write_text(GATEWAY, encoding="utf-8", newline="")
    (folder / "site.ini").write_text(SITE, encoding="utf-8", newline="\r\n")
    (ROOT / "tests").mkdir(exist_ok=True)
    (ROOT / "tests/settings.json").write_text(json.dumps(SETTINGS, indent=1) + "\n", encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
