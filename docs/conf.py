"""How the documentation is built: `make docs`, every warning an error."""

from __future__ import annotations

import pagefrag

project = "pagefrag"
author = "the pagefrag developers"
copyright = author  # noqa: A001 - the name that Sphinx looks for
version = release = pagefrag.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"pagefrag {version}"
html_show_copyright = False

# Headings are targets, so that a page can point into another.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings put names of code between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
