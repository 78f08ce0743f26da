"""Patches of pixels -> feature vectors: the encoders, and how they are loaded."""
