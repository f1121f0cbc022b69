"""Command line: write the reference, copy the pages for the site, check the built site.

python -m docgen reference                    # docs/reference/ and config/schemas/
python -m docgen stage var/site_pages         # the pages, with links that hold within the site
python -m docgen check var/site               # no dead link, nothing from another host
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """Run a step; returns the exit code."""
    match arguments:
        case ["reference"]:
            from docgen.reference import write  # noqa: PLC0415 - the other steps work without libraries

            for path in write(ROOT):
                print(path.relative_to(ROOT))  # noqa: T201
            return 0
        case ["stage", folder]:
            from docgen.stage import stage  # noqa: PLC0415

            stage(ROOT, Path(folder))
            return 0
        case ["check", folder]:
            from docgen.check import faults  # noqa: PLC0415

            found = faults(Path(folder))
            print("\n".join(found) or "Every link and file of the site exists, and nothing comes from another host.")  # noqa: T201
            return 1 if found else 0
    print(__doc__, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
