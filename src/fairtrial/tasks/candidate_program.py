#!/usr/bin/env -S python3 -I -S
# A small program for any Python inside a box, not a module of the package.
# ruff: noqa: ANN001, ANN201, D103, PTH109
"""candidate --timeout SECONDS -- PROGRAM [ARGUMENT...]: run what the agent made, outside of the verifier's box.

Runs inside a verifier's box. The driver executes the program in another box that holds the agent's files and nothing
of the verifier; standard input is passed on, standard output, standard error and the exit code come back. Exit code
124: out of time; 137: out of memory; 125: the request itself was refused. Standard library only.
"""

import json
import os
import socket
import sys

INPUT_LIMIT = 8 << 20


def main(arguments):
    timeout = 60.0
    if arguments[:1] == ["--timeout"] and len(arguments) > 1:
        timeout, arguments = float(arguments[1]), arguments[2:]
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        return refuse("usage: candidate --timeout SECONDS -- PROGRAM [ARGUMENT...]")
    where = os.environ.get("FAIRTRIAL_CANDIDATE_SOCKET")
    if not where:
        return here(arguments, timeout)
    given = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read(INPUT_LIMIT + 1)
    if len(given) > INPUT_LIMIT:
        return refuse("standard input is too long")
    head = {"argv": arguments, "timeout": timeout, "cwd": os.getcwd(), "stdin": len(given)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(where)
        line.sendall(json.dumps(head).encode() + b"\n" + given)
        with line.makefile("rb") as answers:
            answer = json.loads(answers.readline() or b'{"error": "the driver gave no answer"}')
            if "error" in answer:
                return refuse(answer["error"])
            sys.stdout.buffer.write(answers.read(answer["stdout"]))
            sys.stderr.buffer.write(answers.read(answer["stderr"]))
    return answer["status"]


def here(arguments, timeout):
    """Without a driver to ask (a sandbox that cannot show a socket): beside the verifier."""
    import subprocess

    try:
        return subprocess.run(arguments, timeout=timeout, check=False).returncode & 255
    except subprocess.TimeoutExpired:
        return 124
    except OSError as error:
        return refuse(str(error))


def refuse(reason):
    sys.stderr.write("candidate: " + reason + "\n")
    return 125


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
