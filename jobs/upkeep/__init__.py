"""Commands that load, rebuild, check and repair the warehouse."""
