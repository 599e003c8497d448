"""The OpenAI-compatible endpoints: one file per resource, requests in, responses out."""
