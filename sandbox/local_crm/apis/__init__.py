"""The vendors' APIs, as the local CRM speaks them."""
