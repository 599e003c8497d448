"""The chat page: one HTML document with its style and script written into it."""
