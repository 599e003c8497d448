"""burnish as one of the peers."""
