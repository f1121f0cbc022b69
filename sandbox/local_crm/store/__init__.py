"""Storage of the local CRM."""
