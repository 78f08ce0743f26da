"""What can be wrong with stored features."""


class StoreError(Exception):
    """A feature file or cache that cannot serve; the message says which, what and what to do."""


class MixedFeaturesError(StoreError):
    """Features that were not made as the ones asked for."""


class UnwritableError(StoreError):
    """A place where features cannot be written, as a full disk."""
