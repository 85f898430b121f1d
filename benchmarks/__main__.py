"""Runs the command line, and ends it without a traceback when the user or a pipe does."""

import importlib
import os
import sys

from benchmarks import INTERRUPTED

__all__ = ["main"]

PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    try:
        # JAX is imported here and not above, because that takes seconds in which Ctrl-C may come.
        commands = importlib.import_module("benchmarks.commands")
        status = commands.perform_command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted; nothing more was written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


if __name__ == "__main__":
    sys.exit(main())
