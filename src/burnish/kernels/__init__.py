"""Pure functions on arrays: the arithmetic every model is made of."""
