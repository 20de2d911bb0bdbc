"""A hook of mkdocs: docstrings name things as Sphinx does; the site shows the names without the roles before them."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code)")


def on_page_content(html: str, **_: Any) -> str:
    """The page's ``html`` without the roles before names."""
    return ROLE.sub("", html)
