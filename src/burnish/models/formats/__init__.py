"""How one weight is stored, packed and multiplied."""
