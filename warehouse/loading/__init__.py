"""Loading of raw data from Parquet and CSV files."""
