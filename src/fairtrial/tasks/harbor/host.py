"""What this machine can stand in for: Debian packages and programs that a Dockerfile asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache

_PYTHON = re.compile(r"python3?|python3-(minimal|pip|venv|full|distutils|setuptools|wheel)|python-is-python3|pipx?")
_VERSIONED = re.compile(r"python(3\.\d+)(-(minimal|venv|distutils|full))?")
_ONLY_FOR_DOWNLOADS = frozenset({"ca-certificates", "apt-transport-https", "gnupg", "gnupg2", "apt-utils", "dirmngr"})
_PROGRAM = {
    "build-essential": "gcc",
    "coreutils": "ls",
    "default-jdk": "javac",
    "default-jre": "java",
    "findutils": "find",
    "gnumeric": "ssconvert",
    "golang-go": "go",
    "graphviz": "dot",
    "imagemagick": "convert",
    "libreoffice": "soffice",
    "net-tools": "netstat",
    "netcat-openbsd": "nc",
    "nodejs": "node",
    "openssh-client": "ssh",
    "poppler-utils": "pdftotext",
    "procps": "ps",
    "psmisc": "killall",
    "ripgrep": "rg",
    "tesseract-ocr": "tesseract",
    "util-linux": "mount",
    "xz-utils": "xz",
}
_BASES = re.compile(
    r"(docker\.io/)?(library/)?(ubuntu|debian|python|buildpack-deps|bitnami/python|alpine|busybox|scratch)([:@].*)?"
)
_PROGRAM_BASES = {"node": "node", "golang": "go", "ruby": "ruby", "openjdk": "java", "perl": "perl", "gcc": "gcc"}


def package_reason(package: str) -> str | None:
    """Why a Debian package cannot be had here, or None when this machine has it or has no need of it."""
    name = re.split(r"[=:/]", package, maxsplit=1)[0]
    if _PYTHON.fullmatch(name) or name in _ONLY_FOR_DOWNLOADS or name in _installed():
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (match := _VERSIONED.fullmatch(name)) is not None:
        return None if match[1] == version else f"{name} is not the Python that boxes use here ({version})"
    if shutil.which(_PROGRAM.get(name, name), path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"):
        return None
    return f"the Debian package {name} is not on this machine; install it (apt-get install {name})"


def base_reason(image: str) -> str | None:
    """Why this machine cannot stand in for a base image, or None when it can."""
    if _BASES.fullmatch(image):
        return None
    name = re.split(r"[:@]", image, maxsplit=1)[0].removeprefix("docker.io/").removeprefix("library/")
    program = _PROGRAM_BASES.get(name)
    if program and shutil.which(program):
        return None
    if program:
        return f"the base image {image} brings {program}, which is not on this machine"
    return f"the base image {image} brings software of its own"


def has_program(name: str) -> bool:
    """Whether a box on this machine finds the program."""
    return shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin") is not None


@cache
def _installed() -> frozenset[str]:
    """Names of the installed Debian packages and of what they provide; empty on other systems."""
    if shutil.which("dpkg-query") is None:
        return frozenset()
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Provides}\n"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: set[str] = set()
    for line in listed.stdout.splitlines():
        status, package, provides = (*line.split("\t"), "", "")[:3]
        if status.startswith("ii"):
            found.add(package)
            found.update(item.split("(")[0].strip() for item in provides.split(",") if item.strip())
    return frozenset(found)
