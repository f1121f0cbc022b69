"""The only door to the data: tables, the run ledger, and DuckDB behind one small interface."""
