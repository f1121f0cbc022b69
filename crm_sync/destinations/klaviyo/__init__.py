"""Klaviyo: client and parser of replies."""
