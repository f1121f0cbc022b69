"""Text that commands print on the terminal for people."""
