"""Model in, smaller model and a record of what was done out. Serving never imports it."""
