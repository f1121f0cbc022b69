"""Makes `python -m jobs` the same as `winback`."""

from jobs.cli.app import main

main()
