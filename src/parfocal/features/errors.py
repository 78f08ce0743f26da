"""Errors of stored features."""


class StoreError(Exception):
    """A feature file or cache cannot be used."""


class MixedFeaturesError(StoreError):
    """Stored features are of another encoder, of other patches or of another slide."""


class UnwritableError(StoreError):
    """Features cannot be written, for example because the disk is full."""
