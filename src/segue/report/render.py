"""HTML of a page: Jinja2 with autoescape, and what keeps a record's text from becoming code.

The page asks no network for anything, and a content security policy forbids it to: only the two
scripts that are written here may run, known by their hashes, whatever a record says. Text reaches
the page through autoescape, figures and data through JSON that is never parsed as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from segue.report.palette import DARK
from segue.report.text import name_of, plain

__all__ = ["render_page"]

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    context: Mapping[str, Any], figures: Mapping[str, Any], files: Mapping[str, str]
) -> str:
    """Return the whole page.

    Args:
        context: Variables of the template.
        figures: Element id → Plotly's data and layout, as JSON values.
        files: File name → CSV text, for the download buttons.
    """
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters["name"] = name_of
    scripts = {
        "plotly_js": get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"),
        "page_js": (_TEMPLATES / "page.js").read_text(encoding="utf-8"),
    }
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = {"figures": figures, "files": files, "dark": DARK}
    return environment.get_template("page.html").render(
        **context,
        policy=Markup(policy),
        css=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        **{name: Markup(text) for name, text in scripts.items()},
        data=Markup(_json_for_html(data)),
    )


def _inert(value: Any) -> Any:
    """Escape invisible characters in every text that the template prints; keep "95 %" together."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"(?<=\d) %", "\u00a0%", plain(value))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json_for_html(value: Any) -> str:
    """JSON that may stand inside a script element: no markup can begin or end in it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
