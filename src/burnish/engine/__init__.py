"""Autoregressive serving: schedule, forward, update."""
