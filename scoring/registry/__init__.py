"""Model registries and the bundles that they keep."""
