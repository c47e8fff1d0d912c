# A small program for any Python inside a box, not a module of the package.
"""Imported as `sitecustomize` by every Python of a verifier's box: a script finds the modules beside it.

PYTHONSAFEPATH is set in that box, so that `python3 -m pytest` or `python3 -c ...` in the agent's folder do not load its
pytest.py or json.py. It also takes a script's own folder away, which nothing is gained by: what runs from there
is the agent's (or the tests') anyway. So that folder is put back.
"""

import os
import sys


def script_folder(words: list[str]) -> str | None:
    """The folder of the script in a Python command line; None for -c, -m and standard input."""
    words = list(words[1:])
    while words:
        word = words.pop(0)
        if word in ("-W", "-X", "--check-hash-based-pycs"):
            words = words[1:]
        elif word == "-" or word.startswith(("-c", "-m")):
            return None
        elif not word.startswith("-"):
            return os.path.dirname(os.path.realpath(word))  # noqa: PTH120 - pathlib would be loaded into every Python
        elif not word.startswith("--") and word[-1] in "cm":
            return None
    return None


if __name__ == "sitecustomize" and getattr(sys.flags, "safe_path", False):
    folder = script_folder(sys.orig_argv)
    if folder is not None:
        sys.path.insert(0, folder)
