"""Destinations: one file or folder per CRM, and the transport that they share."""
