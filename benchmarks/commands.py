"""The command line: python -m benchmarks list | demo | run | gpu | report."""

import argparse
import dataclasses
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks import experiments, gpu, record
from benchmarks.data import DATA_VARIABLE
from benchmarks.experiments import UsageError
from benchmarks.progress import set_quiet
from benchmarks.report import build
from benchmarks.runner import perform
from benchmarks.showcase import show

__all__ = ["perform_command"]

RESULTS = Path(__file__).parent / "results"
OUTPUT = Path("benchmark-output")
DEMO_OUTPUT = Path("demo-output")
GPU_OUTPUT = Path("gpu-output")
HANGING = {"subsequent_indent": " " * 14, "break_on_hyphens": False}


def perform_command(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (UsageError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


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
    demo.add_argument("--tune", action="store_true", help="tune the learning rates anew instead")
    _shared(demo, ["smoke", "laptop", "paper"], f"rows, table, picture; default: {DEMO_OUTPUT}/")
    demo.set_defaults(command=_demo)

    run = _command(
        new, "run", "Runs an experiment: rows, a table and a picture.", "run speed.collisions"
    )
    run.add_argument("name", help="the experiment, as `list` shows it")
    run.add_argument("--seeds", type=int, metavar="N", help="how many seeds, not the preset's")
    _shared(run, ["smoke", "laptop", "paper", "gpu"], f"rows; default: {OUTPUT}/NAME.jsonl")
    run.set_defaults(command=_run)

    accelerator = _command(
        new,
        "gpu",
        "Runs what an accelerator that is lent for minutes should tell, in order of value.",
        "gpu --minutes 9 --data-dir DIR",
    )
    accelerator.add_argument(
        "--minutes",
        type=float,
        default=gpu.MINUTES,
        metavar="M",
        help=f"for all of it; default: {gpu.MINUTES:g}",
    )
    accelerator.add_argument(
        "--preset",
        choices=["gpu", "smoke"],
        default="gpu",
        help="smoke: little work, on any device; default: gpu",
    )
    accelerator.add_argument(
        "--parts",
        nargs="+",
        choices=[part.name for part in gpu.PARTS],
        metavar="PART",
        help="in this order; default: " + " ".join(part.name for part in gpu.PARTS),
    )
    _where(accelerator, f"a folder for rows, tables and pictures; default: {GPU_OUTPUT}/")
    _data(accelerator)
    accelerator.set_defaults(command=_gpu)

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


def _where(parser: argparse.ArgumentParser, out: str) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="PATH", help=out)
    where.add_argument(
        "--commit",
        action="store_true",
        help="add the rows to those of benchmarks/results, which the report is built from",
    )


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", metavar="DIR", help=f"folder of downloaded data sets; or set {DATA_VARIABLE}"
    )


def _shared(parser: argparse.ArgumentParser, presets: list[str], out: str) -> None:
    _where(parser, out)
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted or killed"
    )
    parser.add_argument(
        "--preset", choices=presets, default="laptop", help="how much work; default: laptop"
    )
    parser.add_argument("--seed", type=int, help="another seed than the preset's")
    _data(parser)
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
    name = "tuning" if options.tune else "demo"
    folder = RESULTS if options.commit else options.out or DEMO_OUTPUT
    status = _perform(name, options, folder / f"{name}.jsonl", {"data": options.data})
    if status == 0 and not options.tune and not options.commit and options.preset != "smoke":
        show(folder)
    return status


def _run(options: argparse.Namespace) -> int:
    folder = RESULTS if options.commit else OUTPUT
    return _perform(options.name, options, options.out or folder / f"{options.name}.jsonl", {})


def _perform(
    name: str, options: argparse.Namespace, rows_path: Path, changes: dict[str, Any]
) -> int:
    """Runs an experiment with its preset's settings, changed as the command line says."""
    set_quiet(options.quiet)
    _take_data_from(options)
    experiment = experiments.load(name)
    presets = experiment.PRESETS
    if options.preset not in presets:
        raise UsageError(f"{name} has no preset {options.preset!r}; it has {', '.join(presets)}.")
    _refuse_smoke(options)
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
    table_path = None if options.commit else rows_path.with_suffix(".md")  # or in RESULTS.md
    return perform(
        name, experiment, options.preset, settings, rows_path, table_path, options.resume
    )


def _gpu(options: argparse.Namespace) -> int:
    if options.minutes <= 0:
        raise UsageError(f"--minutes must be above 0, got {options.minutes:g}.")
    _refuse_smoke(options)
    _take_data_from(options)
    folder = options.out or GPU_OUTPUT
    shares = {part.name: part for part in gpu.PARTS}
    parts = [shares[name] for name in options.parts or shares]
    return gpu.perform_parts(options.minutes, options.preset, folder, options.commit, parts)


def _take_data_from(options: argparse.Namespace) -> None:
    if options.data_dir is not None:
        os.environ[DATA_VARIABLE] = str(Path(options.data_dir).absolute())


def _refuse_smoke(options: argparse.Namespace) -> None:
    if options.commit and options.preset == "smoke":
        raise UsageError(
            "--commit keeps results, and the preset smoke only shows that all of it works: "
            "take another preset, or leave --commit out."
        )


def _report(options: argparse.Namespace) -> int:
    del options
    print(f"Written: {build(draw=True)}, and its pictures")
    return 0
