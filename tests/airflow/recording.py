"""A notifier that writes each message to a file, in place of a mailbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class Record(BaseNotifier):
    """Appends a line to a file."""

    template_fields = ("text",)

    def __init__(self, text: str, file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.file = file

    def notify(self, context: Any) -> None:
        with Path(self.file).open("a", encoding="utf-8") as lines:
            lines.write(self.text + "\n")

    async def async_notify(self, context: Any) -> None:
        self.notify(context)
