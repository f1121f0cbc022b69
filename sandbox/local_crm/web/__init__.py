"""The local CRM's pages."""
