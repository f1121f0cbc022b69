"""HTTP to a CRM: connections, retries, rate limits, replies."""
