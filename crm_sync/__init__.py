"""Reverse ETL: sends the difference between desired and acknowledged state until the CRM has confirmed every row."""
