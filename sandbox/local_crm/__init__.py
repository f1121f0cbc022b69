"""A CRM on this machine that speaks the vendors' APIs."""
