def features() -> list[str]:
    """Instruction sets this processor offers, of those kernels choose by."""
