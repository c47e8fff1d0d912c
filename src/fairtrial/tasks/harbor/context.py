"""The build context: the environment folder as COPY sees it, without skills, Dockerfile and ignored files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.files import Entry, read_text, walk

_NEVER = frozenset({"Dockerfile", ".dockerignore"})


class Context:
    """Files that COPY can see, by name relative to the environment folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rules = _rules(read_text(folder / ".dockerignore")) if (folder / ".dockerignore").is_file() else []
        self.entries: dict[str, Entry] = {
            entry.name: entry
            for entry in walk(folder)
            if entry.name not in _NEVER and not entry.name.startswith("skills/") and not _ignored(entry.name, rules)
        }
        self.folders: set[str] = {""}
        for item in folder.rglob("*"):
            name = item.relative_to(folder).as_posix()
            if item.is_dir() and not item.is_symlink() and not self.is_skill(name) and not _ignored(name, rules):
                self.folders.add(name)

    def is_skill(self, source: str) -> bool:
        """Whether a COPY source lies in the task's skills."""
        name = _clean(source)
        return name == "skills" or name.startswith("skills/")

    def skill_name(self, source: str) -> str | None:
        """The single skill that a source names, or None for all of them."""
        parts = _clean(source).split("/")[1:]
        return None if not parts or parts == ["*"] else "/".join(parts)

    def match(self, source: str) -> list[str]:
        """Names of files and folders that a source means, sorted. Raises UserError when there are none."""
        name = _clean(source)
        if name.startswith("../") or name == "..":
            raise UserError(f"{source} lies outside of the environment folder")
        if not re.search(r"[*?\[]", name):
            found = [name] if name in self.entries or name in self.folders else []
        else:
            pattern = re.compile(_glob(name, whole_name=False))
            found = sorted(item for item in (*self.entries, *self.folders) if item and pattern.fullmatch(item))
        if not found:
            raise UserError(f"{source} is not in the environment folder")
        return found

    def below(self, folder: str) -> list[Entry]:
        """The files and links in a folder of the context, at any depth."""
        prefix = f"{folder}/" if folder else ""
        return [entry for name, entry in self.entries.items() if name.startswith(prefix)]

    def folders_below(self, folder: str) -> list[str]:
        """The folders in a folder of the context, at any depth, parents first."""
        prefix = f"{folder}/" if folder else ""
        return sorted(name for name in self.folders if name and name.startswith(prefix))

    def origin(self, source: str, target: str, image_path: str) -> Path | None:
        """The file that stands at `image_path` after `source` was copied to `target`, if there is one."""
        base = posixpath.normpath(target)
        if source in self.folders:
            inner = posixpath.relpath(image_path, base)
            entry = self.entries.get(posixpath.normpath(posixpath.join(source, inner)))
        else:
            places = (f"{base.rstrip('/')}/{posixpath.basename(source)}", base)
            entry = self.entries.get(source) if image_path in places else None
        return entry.path if entry is not None and entry.link is None else None


def _clean(source: str) -> str:
    name = posixpath.normpath(source.lstrip("/") or ".")
    return "" if name == "." else name


def _glob(pattern: str, *, whole_name: bool) -> str:
    """A regular expression for Go's path matching; with `whole_name`, `**` crosses slashes as in .dockerignore."""
    out: list[str] = []
    index = 0
    while index < len(pattern):
        char = pattern[index]
        if whole_name and pattern.startswith("**", index):
            slash = pattern.startswith("**/", index)
            out.append("(?:.*/)?" if slash else ".*")
            index += 3 if slash else 2
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", index + 2)) > 0:
            inside = pattern[index + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{inside}]")
            index = end
        else:
            out.append(re.escape(char))
        index += 1
    text = "".join(out)
    try:
        re.compile(text)
    except re.error:
        return re.escape(pattern)
    return text


def _rules(text: str) -> list[tuple[bool, re.Pattern[str]]]:
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        keep = line.startswith("!")
        name = _clean(line.removeprefix("!").strip())
        rules.append((keep, re.compile(f"{_glob(name, whole_name=True)}(?:/.*)?", re.DOTALL)))
    return rules


def _ignored(name: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    ignored = False
    for keep, pattern in rules:
        if pattern.fullmatch(name):
            ignored = not keep
    return ignored
