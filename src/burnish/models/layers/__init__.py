"""Blocks named after mechanisms."""
