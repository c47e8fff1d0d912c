"""Repairs links first, then the tables of contents (whose headings hold links)."""

import csv
import os
import re
from pathlib import Path

DOCS = Path("/app/docs")
LINK = re.compile(r"(`[^`]*`)|\[([^\[\]]*)\]\(([^()\s]*)\)")


def rows(name):
    with (DOCS.parent / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


moved = {row["old"]: row["new"] for row in rows("moved.csv")}
texts = {str(path.relative_to(DOCS)): path.read_bytes().decode() for path in sorted(DOCS.rglob("*.md"))}


def outside(text):
    """(index, line, is outside of fenced code) for each line, with its line end."""
    fence = None
    for index, line in enumerate(text.splitlines(keepends=True)):
        mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)$", line.rstrip("\r\n"))
        if fence:
            yield index, line, False
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not mark[2].strip():
                fence = None
        elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = mark[1]
            yield index, line, False
        else:
            yield index, line, True


def plain(heading):
    return re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", heading)


def slug(heading):
    kept = [char for char in plain(heading).lower() if char.isalnum() or char in " -_"]
    return "".join(kept).replace(" ", "-")


def headings(text):
    """(line index, level, text, anchor) of all headings."""
    result, count = [], {}
    for index, line, live in outside(text):
        match = re.match(r"(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", line.rstrip("\r\n")) if live else None
        if match:
            anchor = slug(match[2])
            seen = count.get(anchor, 0)
            count[anchor] = seen + 1
            result.append((index, len(match[1]), plain(match[2]), f"{anchor}-{seen}" if seen else anchor))
    return result


anchors = {name: {heading[3] for heading in headings(text)} for name, text in texts.items()}
renamed = {(row["file"], slug(row["old"])): slug(row["new"]) for row in rows("renamed.csv")}


def target(document, link):
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", link) or not link:
        return link
    path, _, fragment = link.partition("#")
    folder = os.path.dirname(document)
    full = os.path.normpath(os.path.join(folder, path)) if path else document
    if not (DOCS / full).exists():
        seen = full
        while seen in moved:
            seen = moved[seen]
        if not (DOCS / seen).exists():
            return link
        full, path = seen, os.path.relpath(seen, folder or ".")
    if fragment and full in anchors and fragment not in anchors[full]:
        fragment = renamed.get((full, fragment), fragment)
    return path + (f"#{fragment}" if fragment else "")


for name, text in texts.items():
    lines = []
    for _, line, live in outside(text):
        if live:
            line = LINK.sub(lambda m: m[0] if m[1] else f"[{m[2]}]({target(name, m[3])})", line)
        lines.append(line)
    stripped = [line.strip() for line in lines]
    if "<!-- toc -->" in stripped:
        first, last = stripped.index("<!-- toc -->"), stripped.index("<!-- /toc -->")
        end = lines[first][len(lines[first].rstrip("\r\n")):]
        items = [f"{'  ' * (level - 2)}- [{title}](#{anchor}){end}"
                 for index, level, title, anchor in headings("".join(lines)) if index > last and 2 <= level <= 4]
        lines[first + 1:last] = items
    (DOCS / name).write_bytes("".join(lines).encode())
    print("checked", name)
