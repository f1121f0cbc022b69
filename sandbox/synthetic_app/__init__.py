"""A synthetic app: users, their behaviour, and the raw tables that it would write."""
