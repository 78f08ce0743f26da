"""Features of patches, stored in files or computed when a model asks for them.

`FeatureFile` is imported from `parfocal.features.store` and `extract_slide` from
`parfocal.features.extract`. Both need h5py, which predicting one slide does not.
"""

from parfocal.features.cache import FeatureCache
from parfocal.features.errors import StoreError
from parfocal.features.live import live_bag

__all__ = ["FeatureCache", "StoreError", "live_bag"]
