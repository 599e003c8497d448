"""The picture of the results."""
