"""Warnings about the tissue of a slide."""

import logging

import numpy as np

from parfocal.features.header import SlideSettings
from parfocal.slide.slide import slide_from_array


def test_tissue_that_may_be_wrong_is_logged_with_the_command_that_draws_it(caplog):
    pixels = np.full((300, 300, 3), (190, 90, 160), dtype=np.uint8)
    slide = slide_from_array(pixels, mpp=16.0, name="S-1")
    with caplog.at_level(logging.WARNING):
        tissue = SlideSettings((0.625,), 64).tissue_of(slide)
    assert caplog.messages == [f"{tissue.warning} `parfocal inspect --picture` draws it."]
    assert "give a file with the tissue with --tissue" in caplog.text
