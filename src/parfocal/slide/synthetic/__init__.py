"""Painted slides and cohorts, with lesions that show only at high magnification."""
