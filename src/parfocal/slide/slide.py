"""Slide, Box, open_slide: a slide file -> pixels at a requested mpp.

A `Scan` is what a file format offers: stored levels and their pixels. `Slide` is the one place
that turns those into pixels at true microns per pixel, so every format is read alike.
"""
