"""Local CRM: a server on this machine with the APIs of four vendors."""
