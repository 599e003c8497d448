"""Which bottleneck holds a model back on this machine, and what would help."""
