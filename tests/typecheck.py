"""The type checker that the tests lay over every function of kinopt."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for pyright
