"""Salesforce: client, login, field checks, rows as CSV and table of errors."""
