"""Speed, memory, quality and size of a model, each measured with its spread."""
