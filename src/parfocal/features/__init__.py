"""Patches -> feature vectors, stored in a file or computed when asked for.

`FeatureFile` stays in `parfocal.features.store` and `extract_slide` in `.extract`: both need
h5py, which a process that predicts one slide live should not have to load.
"""

from parfocal.features.cache import FeatureCache
from parfocal.features.encoder import Encoder, EncoderSpec, load_encoder
from parfocal.features.errors import StoreError
from parfocal.features.live import LiveBag

__all__ = ["Encoder", "EncoderSpec", "FeatureCache", "LiveBag", "StoreError", "load_encoder"]
