"""beartype that accepts an int where a float is annotated, as PEP 484 allows."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
