"""`python -m jobs` is `winback`."""

from jobs.cli import main

main()
