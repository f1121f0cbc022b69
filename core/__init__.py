"""The lowest layer, which imports no other package of ours: errors, configuration files, settings, progress reporters."""
