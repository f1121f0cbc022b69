"""`python -m jobs` is `winback`."""

from jobs.cli.app import main

main()
