"""Commands that load, rebuild, check, migrate and repair the warehouse."""
