"""Three numbers of a plain training's end, and what they say of collisions with Adam."""

__all__ = ["COMMON", "COS_G", "COS_W", "advice"]

COMMON = 0.4
"""Share of the gradient that all units have in common: below, there is nothing to brake."""

COS_G = 0.3
"""Mean |cos| of these gradients, likewise; units that pull both ways have it without the first."""

COS_W = 0.4
"""Mean |cos| of the weights at the end: below, the brake of `alike="both"` lets go too early."""


def advice(common: float, cos_g: float, cos_w: float) -> set[str]:
    """Which collisions are worth a search, "soft" and "soft, gradients".

    Args:
        common: N |mean g|^2 / sum |g|^2 of the layer's gradients at the end of a plain training,
            with Adam and a rate that decays to zero.
        cos_g: Mean |cos| between these gradients.
        cos_w: Mean |cos| between the weights then.

    >>> sorted(advice(0.9, 0.9, 0.7)), advice(0.9, 0.9, 0.1), advice(0.2, 0.2, 0.7)
    (['soft', 'soft, gradients'], {'soft, gradients'}, set())
    """
    found = set()
    if common >= COMMON and cos_g >= COS_G:
        found.add("soft, gradients")
        if cos_w >= COS_W:
            found.add("soft")
    return found
