"""Runs the dbt project, which builds the tables for a run window."""
