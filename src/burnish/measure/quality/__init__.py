"""How much of what a model knew a variant still knows, each figure with its interval."""
