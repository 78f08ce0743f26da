"""Encoders, which compute feature vectors from patches of pixels."""
