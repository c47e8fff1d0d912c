"""What a RUN line would do: what it installs, what can run in a box without network, and why the rest cannot."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fairtrial.tasks.harbor.host import has_program, package_reason
from fairtrial.tasks.harbor.requirements import Install, pip_arguments, pip_install
from fairtrial.tasks.harbor.shell import Command, joined, split

_BUILTINS = frozenset({
    "cd", "echo", "printf", "set", "export", "true", "false", "test", "[", "[[", ":", "source", ".", "read",
    "shift", "local", "eval", "exit", "return", "unset", "umask", "trap", "wait", "type", "hash", "alias", "pwd",
    "ulimit", "shopt", "declare", "in", "python", "python3",
})  # fmt: skip
_NETWORK = frozenset({
    "curl", "wget", "npm", "npx", "yarn", "pnpm", "cargo", "rustup", "gem", "bundle", "mvn", "gradle", "conda",
    "mamba", "micromamba", "playwright", "huggingface-cli", "hf", "svn", "elan", "lake", "opam", "cabal",
    "composer", "dotnet", "cs", "sdk", "nvm", "gh", "aws", "gsutil", "gcloud", "scp", "sftp", "ssh", "ftp",
    "telnet", "add-apt-repository", "apt-key", "docker", "R", "Rscript", "cpan", "cpanm", "luarocks", "nc", "uvx",
    "poetry", "pdm",
})  # fmt: skip
_SYSTEM = frozenset({
    "useradd", "adduser", "groupadd", "usermod", "chsh", "passwd", "chpasswd", "service", "systemctl",
    "update-alternatives", "locale-gen", "dpkg-reconfigure", "mount", "sysctl", "mknod", "crontab", "visudo",
    "dpkg", "ldconfig",
})  # fmt: skip
_OTHER_PACKAGERS = frozenset({"yum", "dnf", "microdnf", "apk", "zypper", "pacman", "brew", "snap"})
_APT_WITHOUT_MEANING = frozenset({
    "update", "upgrade", "dist-upgrade", "full-upgrade", "clean", "autoclean", "autoremove", "remove", "purge",
    "check",
})  # fmt: skip
_GIT_NETWORK = frozenset({"clone", "fetch", "pull", "submodule", "lfs", "ls-remote", "push"})
_DOWNLOADING_CODE = re.compile(
    r"snapshot_download|hf_hub_download|from_pretrained|load_model\(|from_hparams|hub\.load|urlopen|urlretrieve|"
    r"requests\.get|httpx\.|nltk\.download|\.download\(|load_dataset|https?://"
)
_CLEANUP = re.compile(r"(/var/(lib/apt|cache|log)|/root/\.cache|~/\.cache)(/.*)?")
_PYTHON_NAME = re.compile(r"(?:.*/)?(python3?|pip3?)")
_FUNCTION = re.compile(r"(?m)^\s*(?:function\s+)?([A-Za-z_]\w*)\s*\(\)")
_TOP_FOLDER = re.compile(r"(?<![\w./$}~*-])/([A-Za-z0-9_][\w.-]*)/")
_SYSTEM_FOLDERS = frozenset({"bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "tmp", "usr"})
_VALUED = frozenset({"-o", "-t", "--target-release", "-c", "--option", "--default-release"})


@dataclass(slots=True)
class RunPlan:
    """One RUN line taken apart."""

    script: str = ""
    """What is left to run in a box; empty when nothing is."""
    packages: list[str] = field(default_factory=list)
    """Debian packages."""
    installs: list[Install] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Absolute paths that have to exist before the script runs: what it makes, and where it writes."""


def plan_run(script: str, *, installed: bool = False) -> RunPlan:
    """Take the shell script of a RUN line apart. Never raises.

    `installed` says that Python packages were named before: they may bring programs that this machine lacks.
    """
    plan = RunPlan()
    kept: list[tuple[str, str]] = []
    work = False
    defined = set(_FUNCTION.findall(script))
    for command in split(script):
        text = command.text
        if command.words and command.words[0] not in defined and _handled(command, plan, installed):
            text = _blank(text)
        elif command.words[:1] == ("mkdir",):
            simple = _mkdir(command, plan)
            work = work or not simple
            text = re.sub(r"\bmkdir\b", "mkdir -p", text, count=1)
        else:
            work = work or _does_something(command)
        kept.append((text, command.after))
        if _DOWNLOADING_CODE.search(command.after) and command.words[:1] and _is_python(command.words[0]):
            plan.refused.append("runs Python code that downloads")
    if work and not plan.refused:
        plan.script = joined(kept)
        plan.folders += [f"/{name}" for name in _TOP_FOLDER.findall(script) if name not in _SYSTEM_FOLDERS]
    plan.folders = list(dict.fromkeys(plan.folders))
    return plan


def _mkdir(command: Command, plan: RunPlan) -> bool:
    """Note the folders of a `mkdir`; True when that is all there is to it."""
    paths = [word for word in command.words[1:] if not word.startswith("-")]
    literal = [path for path in paths if path.startswith("/") and not set(path) & set("$*?[{~`")]
    plan.folders += [posixpath.normpath(path) for path in literal]
    return len(literal) == len(paths) and not command.nested and not set(command.words) & {"-m", "--mode"}


def _blank(text: str) -> str:
    """`true` in place of a command, its leading keywords and its redirections gone."""
    lead = re.match(r"\s*((then|do|else|!|\{|if|elif|while)\s+)*", text)
    return f"{lead[0] if lead else ''}true "


def _does_something(command: Command) -> bool:
    return bool(command.words) and command.words[0] not in ("set", "true", ":", "exit")


def _handled(command: Command, plan: RunPlan, installed: bool) -> bool:
    """Judge one command; True when it must not be run in the box (done otherwise, or without meaning here)."""
    words = command.words
    name = words[0].rsplit("/", 1)[-1]
    if name in ("apt-get", "apt", "aptitude"):
        _apt(words[1:], plan)
    elif pip_arguments(words) is not None:
        _pip(command, plan)
    elif name == "ln" and _PYTHON_NAME.fullmatch(words[-1]) and words[-1].startswith("/usr/"):
        plan.notes.append(f"{words[-1]} is the Python of the box")
    elif _is_python(words[0]) and list(words[1:3]) == ["-m", "venv"]:
        plan.notes.append(f"no virtual environment at {words[-1]}: the packages are in every Python of the box")
    elif name == "rm" and all(_CLEANUP.fullmatch(word) for word in words[1:] if not word.startswith("-")):
        pass
    elif name in ("chown", "chgrp"):
        plan.notes.append("owners are not changed: everything belongs to the box's only user")
    elif (reason := _reason(words, name) or _absent(words, name, installed or bool(plan.installs))) is not None:
        plan.refused.append(reason)
    else:
        return False
    return True


def _apt(words: Sequence[str], plan: RunPlan) -> None:
    rest = list(words)
    names: list[str] = []
    action = ""
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            _ = rest.pop(0) if word in _VALUED and rest else None
        elif not action:
            action = word
        else:
            names.append(word)
    if action in _APT_WITHOUT_MEANING:
        return
    if action != "install":
        plan.refused.append(f"apt-get {action} cannot be honoured")
        return
    for name in names:
        if "$" in name or "`" in name:
            plan.refused.append(f"the list of Debian packages comes from a shell variable ({name})")
        elif (reason := package_reason(name)) is not None:
            plan.refused.append(reason)
        else:
            plan.packages.append(name)


def _pip(command: Command, plan: RunPlan) -> None:
    arguments = pip_arguments(command.words) or ()
    if (install := pip_install(command.words)) is not None:
        if command.nested:
            plan.refused.append("installs Python packages inside if, for or a group; that cannot be decided beforehand")
        plan.refused += install.refused
        plan.installs.append(install)
    elif arguments and arguments[0] in ("uninstall", "download", "wheel"):
        plan.refused.append(f"pip {arguments[0]} cannot be honoured")


def _reason(words: Sequence[str], name: str) -> str | None:
    """Why a command cannot be run in a box without network, or None."""
    text = " ".join(words)
    if name in _NETWORK or (name == "go" and words[1:2] and words[1] in ("get", "install", "mod")):
        return f"{name} needs the network"
    if name == "git" and any(word in _GIT_NETWORK for word in words[1:3]):
        return f"git {next(word for word in words[1:3] if word in _GIT_NETWORK)} needs the network"
    if name in _OTHER_PACKAGERS:
        return f"{name} installs packages of another system"
    if name in _SYSTEM:
        return f"{name} changes the system, which boxes share read-only"
    if name == "uv":
        return f"uv {' '.join(words[1:2])} cannot be honoured; name the packages with pip install"
    if (_is_python(words[0]) or name in ("sh", "bash", "node", "perl")) and _DOWNLOADING_CODE.search(text):
        return f"runs {name} code that downloads"
    if _is_python(words[0]) and list(words[1:3]) == ["-m", "playwright"]:
        return "playwright needs the network"
    return None


def _absent(words: Sequence[str], name: str, installed: bool) -> str | None:
    if installed or "/" in words[0] or "$" in words[0] or name in _BUILTINS or has_program(name):
        return None
    return f"the program {name} is not on this machine"


def _is_python(word: str) -> bool:
    return re.fullmatch(r"(?:.*/)?python(3(\.\d+)?)?", word) is not None
