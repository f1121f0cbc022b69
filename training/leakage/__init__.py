"""Screens that find features which know the label."""
