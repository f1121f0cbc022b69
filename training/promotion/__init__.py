"""Comparison of a challenger with the champion, and its verdict."""
