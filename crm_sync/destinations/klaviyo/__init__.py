"""Klaviyo."""
