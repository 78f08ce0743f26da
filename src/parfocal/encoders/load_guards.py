"""Guard the loading of weights by other packages: nothing pickled runs, nothing stays random."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own


@contextmanager
def recorded_loads() -> Iterator[list[str]]:
    """Collect the names of tensors that are missing from weights while a package loads them.

    timm, if the number of classes differs, and the package of CONCH ignore missing tensors, so that
    weights of another network would leave this one random.
    """
    missing: list[str] = []
    load = nn.Module.load_state_dict

    def recorded(network: nn.Module, *arguments: Any, **settings: Any) -> Any:
        result = load(network, *arguments, **settings)
        missing.extend(result.missing_keys)
        return result

    nn.Module.load_state_dict = recorded  # type: ignore[method-assign, assignment]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let torch load no pickled code, whatever timm asks for."""
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_WEIGHTS_ONLY]
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = before
