"""Access to all data: tables, the run ledger, and DuckDB or BigQuery behind one small interface."""
