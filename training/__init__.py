"""From matured examples to a sealed model bundle, offline. Knows no job, no CRM, no clock and no environment."""
