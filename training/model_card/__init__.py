"""The model card: text, tables, plots and page."""
