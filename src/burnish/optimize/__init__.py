"""From measured variants to the one to serve."""
