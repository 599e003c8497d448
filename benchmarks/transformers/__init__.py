"""transformers, eager."""
