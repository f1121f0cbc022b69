"""What stands in for the outside world on a laptop: an app, a CRM, a demo."""

from pathlib import Path

# Where the local CRM keeps its profiles unless told otherwise.
DEFAULT_CRM = Path("var/crm.sqlite")
