"""Training: makes a verified model bundle from examples."""
