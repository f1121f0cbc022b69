"""Synthetic app: users, their behaviour, and the raw tables that the app would write."""

from sandbox.synthetic_app.app import SyntheticApp, generate

__all__ = ["SyntheticApp", "generate"]
