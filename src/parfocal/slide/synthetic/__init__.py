"""Paint slides and cohorts with lesions that are visible only at high magnification."""
