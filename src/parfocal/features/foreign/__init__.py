"""Features that other tools extracted, one file per tool; `detect` recognizes them by content."""
