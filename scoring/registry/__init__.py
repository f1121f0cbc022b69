"""Model registries and their bundles."""
