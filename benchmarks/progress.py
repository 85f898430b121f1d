"""A progress bar with the time left, on standard error; `--quiet` hides it."""

from tqdm import tqdm

__all__ = ["progress_bar", "set_quiet"]

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
