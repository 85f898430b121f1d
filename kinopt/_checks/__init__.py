"""Arguments that make no sense are refused where they are given, not steps later.

Every error names the argument, what was given, and what would work. NumPy's numbers, and arrays
with one entry, are numbers; True, "1e-3", None and NaN are not. A number that JAX traces has no
value yet, and passes; so do schedules where a schedule is taken.
"""

from kinopt._checks.kinds import check_choice, check_dtype, check_flag, check_function, check_key
from kinopt._checks.numbers import check_count, check_number, check_numbers
from kinopt._checks.values import STATIC_HINT, is_concrete, is_plain, is_traced, is_zero, shown

__all__ = [
    "STATIC_HINT",
    "check_choice",
    "check_count",
    "check_dtype",
    "check_flag",
    "check_function",
    "check_key",
    "check_number",
    "check_numbers",
    "is_concrete",
    "is_plain",
    "is_traced",
    "is_zero",
    "shown",
]
