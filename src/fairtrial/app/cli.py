"""The command line: few verbs, few flags, one error line, documented exit codes. Heavy imports happen inside verbs.

Exit codes: 0 done, 1 a gate failed, 2 usage or configuration, 3 too many errored trials, 4 run directory locked or
corrupt (or the disk refused a write), 130 interrupted (the resume command is printed).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fairtrial.app import gatewaying, sampling, serving, tokenizing
from fairtrial.core.errors import FairtrialError, UserError, one_line

app = typer.Typer(
    name="fairtrial",
    help="A lab for LLM agents where every claim ships with its control arm.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunPath = Annotated[Path, typer.Argument(help="A run directory, such as runs/demo.")]
ShowPath = Annotated[Path, typer.Argument(help="A run directory, or an imported collection.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the study, e.g. repeats=5.")
]
Gates = Annotated[
    list[str] | None,
    typer.Option("--gate", metavar="GATE", help='Exit 1 unless it holds, e.g. "mine >= control - 0.02".'),
]
GateOnOption = Annotated[str, typer.Option("--gate-on", help="What a gate compares: estimate or bound (interval).")]
MaxErrored = Annotated[
    float, typer.Option("--max-errored", min=0, max=1, help="Exit 3 when more than this share of trials errored.")
]
Retry = Annotated[bool, typer.Option("--retry-errored", help="Give trials that errored as many attempts again.")]
OpenReport = Annotated[bool, typer.Option("--report/--no-report", help="Write report/index.html when done.")]


def _version(value: bool) -> None:
    if value:
        import fairtrial

        typer.echo(f"fairtrial {fairtrial.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour (so does the NO_COLOR variable).")] = False,
) -> None:
    if no_color:
        os.environ["NO_COLOR"] = "1"


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory; default runs/<name of the study file>.")
    ] = None,
    set_: Set = None,
    gate: Gates = None,
    gate_on: GateOnOption = "estimate",
    max_errored: MaxErrored = 0.05,
    retry_errored: Retry = False,
    report: OpenReport = True,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a study; the same command again continues where it stopped."""
    from fairtrial.app import running

    path = out or Path("runs") / study.stem
    options = running.Options(tuple(gate or ()), gate_on, max_errored, retry_errored, report, quiet, as_json)
    raise typer.Exit(running.run(study, path, tuple(set_ or ()), options))


@app.command()
def resume(
    path: RunPath,
    set_: Set = None,
    gate: Gates = None,
    gate_on: GateOnOption = "estimate",
    max_errored: MaxErrored = 0.05,
    retry_errored: Retry = False,
    report: OpenReport = True,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Continue a run from its directory alone."""
    from fairtrial.app import running

    options = running.Options(tuple(gate or ()), gate_on, max_errored, retry_errored, report, quiet, as_json)
    raise typer.Exit(running.resume(path, tuple(set_ or ()), options))


@app.command()
def report(path: RunPath, gate: Gates = None, gate_on: GateOnOption = "estimate", as_json: Json = False) -> None:
    """Analyse a run (finished or not), print the verdicts and write report/index.html."""
    from fairtrial.app import running

    raise typer.Exit(running.report(path, tuple(gate or ()), gate_on, as_json))


@app.command()
def compare(
    left: Annotated[str, typer.Argument(help="RUN or RUN:ARM; without an arm, every arm that both runs have.")],
    right: Annotated[str, typer.Argument(help="RUN or RUN:ARM, the one that is compared with.")],
    as_json: Json = False,
) -> None:
    """Compare two runs on the tasks that they share, paired."""
    from fairtrial.app import comparing

    comparing.compare(left, right, as_json)


@app.command()
def show(
    path: ShowPath,
    trial: Annotated[
        str | None,
        typer.Argument(help="ARM/TASK#REPEAT for one record, an id for one trajectory; nothing for a list."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only scored, failed, errored or skipped.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 50,
    open_: Annotated[
        str | None,
        typer.Option("--open", metavar="NAME", help='Print one artifact; "visible": the files the agent could read.'),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", metavar="MODEL", help="What of a run that model's training learns, token by token."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the trials of a run or the trajectories of a collection, or one of them whole."""
    from fairtrial.app import showing

    if tokens is not None:
        showing.show_tokens(path, trial, tokens)
        return
    showing.show(path, trial, showing.Filter(arm, task, outcome, limit), open_, as_json)


@app.command("import")
def import_(
    path: Annotated[
        str | None, typer.Argument(help="A file or folder of traces, or hf:OWNER/NAME[@CONFIG][:SPLIT] from the hub.")
    ] = None,
    format_: Annotated[str | None, typer.Option("--as", help="The format; detected where it is not given.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make; default imported/<name of the file>.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier import at that place.")] = False,
    faithful: Annotated[
        bool, typer.Option("--faithful", help="Data sets: the published standardised form, its faults included.")
    ] = False,
    endings: Annotated[
        bool, typer.Option("--endings", help="Data sets: close open trajectories with a synthetic exchange.")
    ] = False,
    card: Annotated[bool, typer.Option("--card/--no-card", help="Run the gates and write the quality card.")] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave out every trajectory that fails a gate, with the reason.")
    ] = False,
    max_errored: Annotated[
        float, typer.Option("--max-errored", min=0, max=1, help="Exit 3 when more than this share had an error.")
    ] = 0.05,
    max_mb: Annotated[int, typer.Option("--max-mb", min=1, help="Refuse a larger line or element.")] = 64,
    formats: Annotated[bool, typer.Option("--formats", help="List the formats, then exit.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import traces of agents from the formats of the world, with a quality card."""
    from fairtrial.app import trajectories

    if formats:
        trajectories.list_formats(as_json)
    elif path is None:
        raise UserError("name what to import: fairtrial import PATH (or --formats for the list of formats)")
    else:
        wanted = trajectories.Import(
            format_, faithful, endings, max_mb, card, strict, replace, max_errored, quiet, as_json
        )
        raise typer.Exit(trajectories.import_(path, out, wanted))


@app.command()
def calibrate(
    study: Annotated[Path, typer.Argument(help="A study file, or a run directory whose records are the pilot.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the A-against-A run goes; default runs/<name>-calibration."),
    ] = None,
    studies: Annotated[int, typer.Option(min=100, help="Simulated studies for each rate.")] = 1000,
    set_: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the control against itself, then print the false-positive rate and the power for planted effects."""
    from fairtrial.app import calibrating

    calibrating.calibrate(study, out, studies, tuple(set_ or ()), quiet, as_json)


@app.command()
def train(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A training configuration (TOML); with --text: text files and folders; or sft and then runs, "
            "files of trajectories or one configuration (TOML): supervised training on what the agents said."
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Train a tiny model on these text files (or JSONL).")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; default runs/<name of the first path>.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. optim.lr=3e-4.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only continue; with --out alone, from what the run remembers.")
    ] = False,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="CHECKPOINT", help="Branch: start from another run's checkpoint.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With sft: who is to learn, native:FOLDER or hf:FOLDER.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a language model on text, or with sft on runs; the same command again continues where it stopped."""
    if paths and str(paths[0]) == "sft":
        from fairtrial.app import sft_training

        if text or start is not None:
            raise UserError("train sft: --text and --from belong to training on text; leave them out")
        asked = sft_training.Request(tuple(paths[1:]), model, out, tuple(set_ or ()), quiet, as_json)
        raise typer.Exit(sft_training.train(asked))
    if model is not None:
        raise UserError("--model: write fairtrial train sft RUN_OR_FILE --model ...")
    from fairtrial.app import training

    wanted = training.Request(tuple(paths or ()), text, out, tuple(set_ or ()), resume, start, quiet, as_json)
    raise typer.Exit(training.train(wanted))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say which sandboxes, engines and extras are real on this machine, and how to get the others."""
    from fairtrial.app.doctor import doctor as examine

    raise typer.Exit(examine(as_json))


@app.command()
def verify(path: RunPath, as_json: Json = False) -> None:
    """Check every byte of a run directory against its checksums."""
    from fairtrial.app import maintaining

    raise typer.Exit(maintaining.verify(path, as_json))


@app.command()
def reindex(path: RunPath, as_json: Json = False) -> None:
    """Rebuild the index of a run directory from its segments."""
    from fairtrial.app import maintaining

    maintaining.reindex(path, as_json)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A run, an imported collection, a file of traces, or a mixture (TOML).")],
    out: Annotated[
        Path, typer.Argument(help="File to write (.jsonl, .json; records of a run: .jsonl, .parquet); mixture: folder.")
    ],
    to: Annotated[str | None, typer.Option("--to", help="Format of trajectories, e.g. openai-chat.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of a run: trajectories of this arm only.")] = None,
    min_reward: Annotated[
        float | None, typer.Option("--min-reward", help="Only trajectories with at least this reward.")
    ] = None,
    endings: Annotated[bool, typer.Option("--endings", help="Keep synthetic closing exchanges.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Of a mixture: the folder that holds its data sets.")
    ] = None,
    max_errored: Annotated[
        float, typer.Option("--max-errored", min=0, max=1, help="Exit 3 when more than this share was refused.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Export a run for analysis, or trajectories for training and other tools."""
    from fairtrial.app import trajectories

    chosen = trajectories.Choice(to, arm, min_reward, endings, data, max_errored)
    raise typer.Exit(trajectories.export(path, out, chosen, as_json))


serving.register(app)
gatewaying.register(app)
tokenizing.register(app)
sampling.register(app)


def main(args: list[str] | None = None) -> None:
    """Entry point: runs the command line and turns errors into one line and the documented exit code."""
    try:
        app(args, standalone_mode=True)
    except FairtrialError as error:
        _complain(one_line(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _complain(text: str) -> None:
    sys.stderr.write(f"fairtrial: {text}\n")


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
