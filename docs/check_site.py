"""What a built site must have; `make docs` fails without it. A hook of mkdocs, named in `mkdocs.yml`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

PAGE = "reference/python.html"
NAMES = ("fit", "load", "Detector", "Prediction")
"""What the reference page shows of the package, from its docstrings."""


def on_post_build(config: MkDocsConfig) -> None:
    """Look at the site. Raises PluginError for a missing name, or fonts that come from elsewhere."""
    text = (Path(config.site_dir) / PAGE).read_text()
    for name in NAMES:
        if f'id="blemish.{name}"' not in text:
            raise PluginError(f"{PAGE}: blemish.{name} is not there; see docs/reference/python.md")
    if re.search(r'(?:src|href)="https?://fonts', text):
        raise PluginError(f"{PAGE}: fetches fonts from elsewhere; see theme.font in mkdocs.yml")
