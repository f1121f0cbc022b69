"""Vendor APIs of the local CRM."""
