"""Challenger against champion: comparison and verdict."""
