"""Ground floor, which imports none of our rooms: errors, configuration files, settings, progress."""
