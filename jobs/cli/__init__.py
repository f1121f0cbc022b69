"""The command line: options in, a result printed, an exit code out."""
