import logging

import pytest

from parfocal.encoders import right_use
from parfocal.encoders.catalog import CARDS
from parfocal.encoders.right_use import (
    refuse_outside_range,
    warn_of_patch_size,
    warn_outside_range,
)
from parfocal.encoders.weights import EncoderError

LITE0, UNI2, CONCH = (CARDS[name].spec() for name in ("efficientnet-lite0", "uni2-h", "conch"))


@pytest.fixture(autouse=True)
def _forget_warnings():
    right_use._warn_once.cache_clear()


def test_an_encoder_outside_its_range_is_refused():
    message = (
        r"uni2-h was made for 0\.4 to 0\.625 µm/px, and 1\.25x has 8\. .*\{1\.25: effi.*any_mpp"
    )
    with pytest.raises(EncoderError, match=message):
        refuse_outside_range([UNI2, UNI2], [8.0, 0.5])


@pytest.mark.parametrize("mpp", [0.4, 0.5, 0.625])
def test_an_encoder_inside_its_range_is_used(mpp):
    refuse_outside_range([LITE0, UNI2], [8.0, mpp])


def test_existing_features_outside_the_range_are_a_warning_once(caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        warn_outside_range([UNI2, UNI2], [1.0, 0.5])
    assert caplog.messages == [
        "encoder uni2-h was made for 0.4 to 0.625 µm/px, and 10x has 1: expect worse features there"
    ]


def test_patches_of_another_size_are_a_warning_with_what_the_network_sees(caplog):
    caplog.set_level(logging.WARNING)
    warn_of_patch_size([LITE0, CONCH], [8.0, 0.5], 256)
    (message,) = caplog.messages
    assert "conch was made for patches of 512 px, resized to 448 px; from patches of 256" in message
    assert "sees 0.286 µm/px, not 0.571. Set slide.patch_size=512" in message


def test_patches_of_almost_the_same_size_are_no_warning(caplog):
    caplog.set_level(logging.WARNING)
    warn_of_patch_size([CARDS["virchow"].spec(), UNI2], [0.5, 0.5], 256)
    assert not caplog.messages
