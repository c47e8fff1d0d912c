"""The verb tokenizer: a user's text files to one tokenizer file, for training runs that share it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from fairtrial.core.errors import UserError


def tokenizer(
    paths: Annotated[list[Path], typer.Argument(help="Text files and folders; what is not UTF-8 counts as bytes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, such as tokenizer.json.")],
    vocabulary: Annotated[int, typer.Option(help="Ids in all: 256 bytes, the marks of conversations, merges.")] = 4096,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Train a tokenizer (byte-level BPE) on text; a training configuration names it as tokenizer = "FILE"."""
    if importlib.util.find_spec("tokenizers") is None:
        raise UserError('tokenizers are not installed; install with: pip install "fairtrial[local]"')
    from fairtrial.nn.tokenizer import train_tokenizer

    if out.is_dir():
        raise UserError(f"{out}: is a folder; name the file to write, such as {out / 'tokenizer.json'}")
    if out.exists() and not replace:
        raise UserError(f"{out}: is there already, and models may depend on it; choose another --out, or add --replace")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it first")
    made = train_tokenizer(paths, out, vocabulary)
    if as_json:
        from fairtrial.app.cli import print_json

        print_json(
            {
                "tokenizer": str(made.path),
                "sha256": made.sha256,
                "vocabulary": made.vocab_size,
                "bytes": made.bytes,
                "tokens": made.tokens,
            }
        )
    else:
        sys.stdout.write(
            f"{made.path}: {made.vocab_size} ids, {made.bytes_per_token:.2f} bytes per token on {made.bytes:,} bytes\n"
        )


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(tokenizer)
