"""Features that other tools extracted, one file per tool; `detect` tells them apart by content."""
