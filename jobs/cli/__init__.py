"""The command line: parses options, runs a command, prints its result and sets the exit code."""
