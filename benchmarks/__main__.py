"""The command line: python -m benchmarks list | demo | run | report."""

import argparse
import dataclasses
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks import experiments, record
from benchmarks.data import DATA_VARIABLE
from benchmarks.experiments import UsageError
from benchmarks.progress import set_quiet
from benchmarks.report import build
from benchmarks.runner import INTERRUPTED, perform

RESULTS = Path(__file__).parent / "results"
HANGING = {"subsequent_indent": " " * 14, "break_on_hyphens": False}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (UsageError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted before anything was measured.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _command(argparse.ArgumentParser, None, __doc__, "demo", prog="python -m benchmarks")
    commands = parser.add_subparsers(title="commands", required=True)
    new = commands.add_parser

    listing = _command(new, "list", "Lists the experiments and their questions.", "list")
    listing.set_defaults(command=_list)

    demo = _command(
        new,
        "demo",
        "Trains a network on real digits with and without collisions: a table and a picture.",
        "demo --data mnist --seeds 8",
    )
    demo.add_argument(
        "--data", choices=["digits", "mnist"], default="digits", help="the images; default: digits"
    )
    demo.add_argument("--seeds", type=int, metavar="N", help="how many networks for each method")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-output"), metavar="DIR", help="default: demo-output"
    )
    demo.add_argument("--tune", action="store_true", help="tune the learning rates anew instead")
    _shared(demo, ["smoke", "laptop", "paper"])
    demo.set_defaults(command=_demo)

    run = _command(
        new, "run", "Runs an experiment; adds its rows to a file.", "run speed.collisions"
    )
    run.add_argument("name", help="the experiment, as `list` shows it")
    run.add_argument("--seeds", type=int, metavar="N", help="how many seeds, not the preset's")
    run.add_argument("--out", type=Path, metavar="FILE", help="rows; default: results/NAME.jsonl")
    run.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted or killed"
    )
    _shared(run, ["smoke", "laptop", "paper", "gpu"])
    run.set_defaults(command=_run)

    report = _command(new, "report", "Builds RESULTS.md from the committed rows.", "report")
    report.set_defaults(command=_report)
    return parser


def _command(make, name: str | None, description: str | None, example: str, **more: Any):
    """A parser whose help ends in an example."""
    return make(
        *([name] if name else []),
        description=description,
        epilog=f"example: python -m benchmarks {example}",
        **({"help": description} if name else {}),
        **more,
    )


def _shared(parser: argparse.ArgumentParser, presets: list[str]) -> None:
    parser.add_argument(
        "--preset", choices=presets, default="laptop", help="how much work; default: laptop"
    )
    parser.add_argument("--seed", type=int, help="another seed than the preset's")
    parser.add_argument(
        "--data-dir", metavar="DIR", help=f"folder of downloaded data sets; or set {DATA_VARIABLE}"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _list(options: argparse.Namespace) -> int:
    del options
    for name in experiments.names():
        presets = {row["preset"]: None for row in record.read(RESULTS / f"{name}.jsonl")}
        facts = {
            **experiments.facts(name),
            "Rows": f"committed, preset {', '.join(presets)}" if presets else "none",
        }
        print(f"{name}  {experiments.title(name)}")
        for label, fact in facts.items():
            print(textwrap.fill(fact, 100, initial_indent=f"  {label + ':':12}", **HANGING))
        print()
    return 0


def _demo(options: argparse.Namespace) -> int:
    changes = {"data": options.data}
    if options.tune:
        return _perform("tuning", options, RESULTS / "tuning.jsonl", changes)
    return _perform("demo", options, options.out / "demo.jsonl", changes, options.out / "demo.md")


def _run(options: argparse.Namespace) -> int:
    path = options.out or RESULTS / f"{options.name}.jsonl"
    return _perform(options.name, options, path, {})


def _perform(
    name: str,
    options: argparse.Namespace,
    rows_path: Path,
    changes: dict[str, Any],
    table_path: Path | None = None,
) -> int:
    """Runs an experiment with its preset's settings, changed as the command line says."""
    set_quiet(options.quiet)
    if options.data_dir is not None:
        os.environ[DATA_VARIABLE] = options.data_dir
    experiment = experiments.load(name)
    presets = experiment.PRESETS
    if options.preset not in presets:
        raise UsageError(f"{name} has no preset {options.preset!r}; it has {', '.join(presets)}.")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}.")
    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {options.seeds}.")
    changes = {"seed": options.seed, "num_seeds": options.seeds, **changes}
    changes = {field: value for field, value in changes.items() if value is not None}
    settings = presets[options.preset]
    unknown = changes.keys() - {field.name for field in dataclasses.fields(settings)}
    if unknown:
        raise UsageError(f"{name} has no setting {', '.join(sorted(unknown))}.")
    settings = dataclasses.replace(settings, **changes)
    resume = getattr(options, "resume", False)
    return perform(name, experiment, options.preset, settings, rows_path, table_path, resume)


def _report(options: argparse.Namespace) -> int:
    del options
    print(f"Written: {build(draw=True)}, and its pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
