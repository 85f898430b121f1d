"""Markdown tables that read well in a terminal too."""

from collections.abc import Sequence

__all__ = ["table_of"]


def table_of(header: Sequence[str], lines: Sequence[Sequence[str]], aligned: bool = True) -> str:
    """A table with a heading, every column as wide as its widest cell unless it is not aligned."""
    header, *lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    if not aligned:
        widths = [3] * len(header)  # the least that Markdown asks for
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (header, rule, *lines)
    )
