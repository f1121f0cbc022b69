"""Erasure of users: tombstone, tables, CRM, and what remains."""
