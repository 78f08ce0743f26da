"""Classify gigapixel whole-slide images by learning where to zoom."""
