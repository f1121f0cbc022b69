"""Web pages of the local CRM."""
