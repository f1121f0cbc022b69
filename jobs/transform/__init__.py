"""The dbt project as a library: run windows become tables."""
