"""What all pages share: templates, and the one script that may run, named to the browser by its hash."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

import jinja2

from rag_hpc.eval.text import amount, count, duration, percent, share


def templates() -> jinja2.Environment:
    """Return the templates of pages; what is put in is text, never markup."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("rag_hpc.eval", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {function.__name__: function for function in (amount, count, duration, percent, share)}
    return found


def script() -> dict[str, str]:
    """Return the script that sorts tables and chooses rows, and its hash as a content security policy has it."""
    text = files("rag_hpc.eval.report").joinpath("tables.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return {"script": text, "script_digest": digest}
