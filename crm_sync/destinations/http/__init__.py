"""HTTP client for CRMs: connections, retries, rate limits, replies."""
