"""Makes `python -m jobs` the same as `winback`."""

from jobs.cli.main import main

main()
