"""The constructed /etc of a box: accounts, name lookup and the harmless tables that programs expect.

It is built once per user and content under the temporary folder and shown read-only. Only files that every user of the
host may read are copied, and only from the list below, so keys and passwords cannot get in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

from fairtrial.core.errors import InfraError

_COPIED = (
    "ImageMagick-6", "ImageMagick-7", "alternatives", "bash.bashrc", "ca-certificates.conf", "debian_version", "fonts",
    "host.conf", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "locale.alias", "magic",
    "magic.mime", "mime.types", "networks", "os-release", "perl", "pki/ca-trust", "pki/tls/certs", "protocols", "rpc",
    "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_WRITTEN = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost box\n::1 localhost ip6-localhost\n",
    "hostname": "box\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "profile": "PS1='$ '\n",
    "shells": "/bin/sh\n/bin/bash\n",
}
_LAYOUT = "2"


@cache
def etc_folder(network: str) -> Path:
    """The host folder that is shown as /etc in boxes with this network."""
    resolver = _resolver() if network == "public" else ""
    folder = private_folder() / f"etc-{_digest(resolver)}"
    if not folder.is_dir():
        _build(folder, resolver)
    return folder


def private_folder() -> Path:
    """A folder of this user's under the temporary folder. Raises InfraError where somebody else made it."""
    private = Path(tempfile.gettempdir()) / f"fairtrial-{os.geteuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise InfraError(
            f"{private} belongs to somebody else; remove it or set TMPDIR to a folder of yours",
            cause="sandbox",
            retryable=False,
        )
    return private


def _digest(resolver: str) -> str:
    """Of what the copy would contain: host tables by time of change, written files by content."""
    seen = [_LAYOUT, resolver, *(f"{name}{text}" for name, text in _WRITTEN.items())]
    for name in _COPIED:
        path = Path("/etc") / name
        if path.exists():
            seen.append(f"{name} {path.stat().st_mtime_ns} {path.lstat().st_mtime_ns}")
    return hashlib.blake2b("\n".join(seen).encode(), digest_size=8).hexdigest()


def _build(folder: Path, resolver: str) -> None:
    """Build beside and rename, so that two processes may do it at once."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / "etc"
        new.mkdir(mode=0o755)
        for name in _COPIED:
            _copy(Path("/etc") / name, new / name)
        for name, text in {**_WRITTEN, "resolv.conf": resolver}.items():
            (new / name).write_text(text, encoding="utf-8")
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _copy(source: Path, target: Path) -> None:
    """Copy what everybody may read; links stay links (they lead into the system), other kinds are left out."""
    try:
        found = source.lstat()
    except OSError:
        return
    if stat.S_ISLNK(found.st_mode):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IROTH:
        target.mkdir(parents=True, exist_ok=True)
        for child in sorted(source.iterdir()):
            _copy(child, target / child.name)
    elif stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _resolver() -> str:
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8")
    except OSError:
        return ""
