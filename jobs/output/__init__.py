"""What people read on the terminal after a command."""
