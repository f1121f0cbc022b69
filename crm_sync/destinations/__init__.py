"""One file per CRM, and the transport they share."""
