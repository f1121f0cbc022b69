"""Offline: examples in, a verified model bundle out."""
