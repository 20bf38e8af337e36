"""What an edit job leaves for people and tools beside its data: report, card and Croissant file."""

from __future__ import annotations

from pipeline.croissant import EDITED, write_croissant
from pipeline.dataset_card import write_card
from pipeline.report import write_report
from pipeline.storage import Storage


def write_documents(out_url: str) -> str:
    """Write report.html with sheet.png, README.md and croissant.json from what the run left in OUT; return the URL of the page."""
    storage = Storage(out_url)
    write_card(storage)
    write_croissant(storage, EDITED)
    return write_report(out_url)
