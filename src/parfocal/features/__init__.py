"""Patches -> feature vectors, stored in a file or computed when asked for.

`FeatureFile` stays in `parfocal.features.store` and `extract_slide` in `.extract`: both need
h5py, which a process that predicts one slide live should not have to load.
"""

from parfocal.encoders.encoder import Encoder, EncoderSpec, load_encoder
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import StoreError
from parfocal.features.live import live_bag

__all__ = ["Encoder", "EncoderSpec", "FeatureCache", "StoreError", "live_bag", "load_encoder"]
