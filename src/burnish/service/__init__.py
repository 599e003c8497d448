"""HTTP: OpenAI-compatible endpoints, health, metrics, the guard and the chat page. Loads no torch."""
