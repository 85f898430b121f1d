"""A progress bar with the time left, on standard error; `--quiet` hides it."""

from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

__all__ = ["counted", "progress_bar", "set_quiet"]

_QUIET = False


def set_quiet(quiet: bool) -> None:
    """Hides or shows the bars that are made from now on."""
    global _QUIET
    _QUIET = quiet


def progress_bar(total: int, title: str) -> tqdm:
    """A bar to `update(n)` until it reaches `total`; use it in a `with` block."""
    return tqdm(
        total=total,
        desc=title,
        disable=_QUIET,
        leave=False,
        dynamic_ncols=True,
        smoothing=0,  # the mean speed: compilation comes back with every optimizer
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} spent, {remaining} left{postfix}",
    )


def counted(
    cases: list[dict[str, Any]], title: str, parts: int = 1
) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """The cases one after the other, beside a bar that names the present one.

    Args:
        cases: Each what identifies it.
        title: Of the bar.
        parts: How many parts a case has.

    Yields:
        A case, and what to call after each of its parts; at its end the bar is right without.
    """
    with progress_bar(len(cases) * parts, title) as bar:
        for number, case in enumerate(cases, start=1):
            bar.set_postfix_str(", ".join(map(str, case.values())))
            yield case, bar.update
            bar.update(number * parts - bar.n)
