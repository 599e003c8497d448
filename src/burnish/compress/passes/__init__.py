"""One way to choose the stored values of a layer per file."""
