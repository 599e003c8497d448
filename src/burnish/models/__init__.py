"""Single-device arithmetic of the models, and how their weights live."""
