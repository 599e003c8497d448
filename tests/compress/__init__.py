"""Tests of the compress room."""
