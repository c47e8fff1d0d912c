"""Parses the legacy syntax as MIGRATION.md describes it, resolves references late, writes TOML."""

import json
import re
from pathlib import Path

LEGACY = Path("/app/legacy")
UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
SCALE = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

TABLE = """
global environment environment string|global data_dir paths.data string|global log_dir paths.logs string
global debug log.debug bool|global banner banner string|server admin_ports server.admin_ports range
server workers server.workers int|server max_body limits.body_bytes size|server idle_timeout limits.idle_ms duration
server request_timeout limits.request_ms duration|server shed_load_at limits.shed_load percent
server no_keepalive server.keepalive opposite|server allowed_origins server.origins list
server file_mode server.file_mode string|cache disable cache.enabled opposite|cache memory cache.memory_bytes size
cache ttl cache.ttl_ms duration|cache vary_on cache.vary list|logging file log.file string
logging level log.level lower|logging format log.format string|logging rotate_at log.rotate_bytes size
auth password auth.password string|auth realm auth.realm string|auth token_lifetime auth.token_ms duration
auth key_id auth.key_id int
"""
RULES = {tuple(row.split()[:2]): tuple(row.split()[2:]) for row in re.split(r"[|\n]", TABLE.strip())}
GONE = {("auth", "legacy_hash"), ("server", "use_epoll")}
BACKEND = {"url": ("url", "string"), "weight": ("weight", "int"), "timeout": ("timeout_ms", "duration"),
           "healthy_status": ("healthy_status", "range"), "enabled": ("enabled", "bool")}  # fmt: skip


def plain(name):
    return name.strip().lower().replace("-", "_")


def piece(text):
    """One line's share of a value, without its comment."""
    text = text.strip()
    if text.startswith('"'):
        closing = re.match(r'"(?:[^"\\]|\\.)*"', text)
        # A quoted first item of a list is followed by a comma; a quoted value by nothing or a comment.
        if not text[closing.end() :].lstrip().startswith(","):
            return closing.group()
    return re.split(r"\s;", text, maxsplit=1)[0].strip()


def read(sections, titles, path):
    section = key = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        if line[0].isspace():
            sections[section][key] += " " + piece(line)
        elif line.startswith("["):
            title = line[1 : line.rindex("]")]
            section = plain(title)
            sections.setdefault(section, {})
            titles.setdefault(section, title)
        else:
            key, _, value = line.partition("=")
            key = plain(key)
            sections[section][key] = piece(value)


def unquote(text):
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


def resolve(sections, section, text):
    """The final text of a value: quotes taken off, or references and double per cent signs replaced."""
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', text):
        return unquote(text)

    def replace(match):
        if match.group() == "%%":
            return "%"
        name = plain(match.group(1))
        home = section if sections[section].get(name) else "global"
        return resolve(sections, home, sections[home][name])

    return re.sub(r"%%|%\(([^)]+)\)s", replace, text)


def convert(kind, text):
    if kind in ("string", "lower"):
        return text.lower() if kind == "lower" else text
    if kind in ("bool", "opposite"):
        return (text.lower() in ("yes", "on", "true", "1")) != (kind == "opposite")
    if kind == "int":
        return int(text, 16) if text.lower().startswith("0x") else int(text)
    if kind == "size":
        number, unit = re.fullmatch(r"(\d+)\s*([kmg]?)", text.lower()).groups()
        return int(number) * SCALE[unit]
    if kind == "duration":
        if text.isdigit():
            return int(text) * 1000
        return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)\s*(ms|[dhms])", text.lower()))
    if kind == "percent":
        return float(text.rstrip("% ")) / 100
    if kind == "range":
        low, _, high = text.partition("-")
        return list(range(int(low), int(high or low) + 1))
    items = re.findall(r'\s*"(?:[^"\\]|\\.)*"\s*|[^,]+', text)
    items = [item.strip() for item in items]
    return [unquote(item) if item.startswith('"') else item for item in items if item]


def place(document, path, value):
    *tables, key = path.split(".")
    for table in tables:
        document = document.setdefault(table, {})
    document[key] = value


def migrate():
    sections, titles, document = {}, {}, {}
    read(sections, titles, LEGACY / "gateway.ini")
    read(sections, titles, LEGACY / "site.ini")
    for section, keys in sections.items():
        values = {key: resolve(sections, section, text) for key, text in keys.items() if text}
        if section.startswith("backend:"):
            backend = {"name": titles[section].partition(":")[2].strip(), "enabled": True}
            for key, text in values.items():
                if key in BACKEND:
                    backend[BACKEND[key][0]] = convert(BACKEND[key][1], text)
            document.setdefault("backends", []).append(backend)
            continue
        for key, text in values.items():
            if (section, key) == ("server", "listen"):
                host, _, port = text.rpartition(":")
                place(document, "server.host", host.strip("[]"))
                place(document, "server.port", int(port))
            elif (section, key) in RULES:
                path, kind = RULES[section, key]
                place(document, path, convert(kind, text))
            elif (section, key) not in GONE:
                document.setdefault("extra", {})[f"{section}.{key}"] = text
    return document


def toml(value):
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def main():
    document = migrate()
    lines = [f"{key} = {toml(value)}" for key, value in document.items() if not isinstance(value, dict) and key != "backends"]
    for name, table in document.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{toml(key)} = {toml(value)}" for key, value in table.items())]
    for backend in document.get("backends", []):
        lines += ["", "[[backends]]", *(f"{key} = {toml(value)}" for key, value in backend.items())]
    Path("/app/gateway.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
