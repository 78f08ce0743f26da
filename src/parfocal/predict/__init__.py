"""A slide file -> a prediction."""
