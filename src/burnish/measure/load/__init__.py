"""Traffic on a server, and what its users would see."""
