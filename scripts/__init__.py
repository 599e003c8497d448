"""Scripts that make what is shipped; nothing of them is installed."""
