"""Versions of models: what an artifact is and whether it still is that. No torch."""
