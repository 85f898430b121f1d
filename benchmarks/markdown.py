"""Markdown tables that read well in a terminal too."""

from collections.abc import Sequence

__all__ = ["table_of"]


def table_of(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with a heading, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (header, rule, *lines)
    )
