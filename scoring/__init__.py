"""Features in, decisions out."""
