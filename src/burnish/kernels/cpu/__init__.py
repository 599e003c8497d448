"""Native code for CPUs, built with the package."""
