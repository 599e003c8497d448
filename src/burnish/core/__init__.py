"""The words every room shares. Imports no room and no torch."""
