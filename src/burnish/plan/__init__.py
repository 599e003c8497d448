"""A model as a flat list of fused operations, run for a whole batch in one call."""
