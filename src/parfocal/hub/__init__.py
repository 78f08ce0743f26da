"""Trained models on the Hugging Face Hub, or in a folder laid out like a repository there."""
