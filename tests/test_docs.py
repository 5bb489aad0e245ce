"""Documents that are made from the code are as the code says."""

from pathlib import Path

from vitrail.models.__main__ import page

DOCS = Path(__file__).parent.parent / "docs"


def test_models_page_is_current():
    assert (DOCS / "models.md").read_text() == page(), "run `make docs`"
