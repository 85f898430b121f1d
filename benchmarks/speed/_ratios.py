"""The picture of ratios with their intervals, one line for each candidate."""

from collections.abc import Mapping

from matplotlib.figure import Figure

__all__ = ["ratios_picture"]


def ratios_picture(
    ratios: Mapping[str, list[float | None]], label: str, aim: float | None = None
) -> Figure:
    """Draws median, low and high of each ratio, on a logarithmic axis if they are far apart.

    Args:
        ratios: By name, from top to bottom; an interval that is None is not drawn.
        label: Of the axis.
        aim: A ratio to mark.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7, 0.27 * len(ratios) + 0.9), layout="constrained")
    axes = figure.subplots()
    for n, (median, low, high) in enumerate(ratios.values()):
        assert median is not None
        axes.plot(median, -n, "o", color="C0", ms=4)
        if low is not None and high is not None:
            axes.plot([low, high], [-n, -n], color="C0")
    axes.set_yticks([-n for n in range(len(ratios))], list(ratios), fontsize=8)
    axes.axvline(1, color="black", lw=1)
    if aim is not None:
        axes.axvline(aim, color="black", lw=1, ls=":")
    axes.set(xlabel=label, ylim=(0.5 - len(ratios), 0.5))
    low, high = axes.get_xlim()
    if high > 2 * low:  # else a logarithmic axis has no numbers to show
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", lw=0.3)
    return figure
