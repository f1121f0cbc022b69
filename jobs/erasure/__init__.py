"""Erasure of users: tombstone, deletion in the tables and in the CRM, and notes on what remains."""
