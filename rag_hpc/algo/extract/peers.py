"""Other extractors, for those who prefer them: resiliparse, trafilatura, and all text of a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from rag_hpc.algo.extract.decode import ExtractError
from rag_hpc.errors import MissingDependency

if TYPE_CHECKING:
    from resiliparse.parse.html import DocumentNode, HTMLTree

_MAX_DEPTH = 300  # extraction is quadratic in depth: 20,000 nested elements take 5 s; real pages stay below 60
_MAX_TAG, _MAX_ATTRIBUTES = 20_000, 2_000  # parsing is quadratic in attributes: 50,000 in one tag take 4 s
_LONG_TAG = re.compile(rf"<[a-zA-Z][\w:-]*[\s/][^<>]{{{_MAX_TAG},}}")
_SCRIPT = re.compile(r"<(/?)script", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_LANDMARKS = ("div.documentwrapper div.body", "[role=main]")
_SKIP = ["nav", "footer", "button", "[role=navigation]", ".sphinxsidebar", ".related", ".headerlink"]


def trafilatura_text(html: str, url: str) -> str:
    """Return trafilatura's text, or resiliparse's where it finds none. Raises ExtractError, MissingDependency."""
    tree, document = _parsed(html, url)
    return _trafilatura(html, url) or _resiliparse(tree, document)


def load_trafilatura() -> Callable[..., str | None]:
    """Return trafilatura's function. Raises MissingDependency where the extra is not installed."""
    try:
        from trafilatura import extract as extract_main
    except ImportError as error:
        raise MissingDependency(
            f"extractor=trafilatura: {error}; run: pip install 'rag-hpc[trafilatura]', or leave it at extractor=density"
        ) from error
    return extract_main


def resiliparse_text(html: str, url: str) -> str:
    """Return the main text by resiliparse's rules, or the page's own landmark. Raises ExtractError."""
    return _resiliparse(*_parsed(html, url))


def resiliparse_main(html: str) -> str:
    """Return what resiliparse's own rules find, without landmarks and checks: the library as it is."""
    from resiliparse.parse.html import HTMLTree

    return _plain_text(HTMLTree.parse(html), main_content=True)


def plain_text(html: str, url: str) -> str:
    """Return all text of a page but its navigation. Raises ExtractError."""
    return _all_text(_parsed(html, url)[0])


def _parsed(html: str, url: str) -> tuple[HTMLTree, DocumentNode]:
    """Raise ExtractError for what the parser cannot do in bounded time: no-text, too-deep, too-many-attributes."""
    from resiliparse.parse.html import HTMLTree

    _check_tags(html, url)
    tree = HTMLTree.parse(html)
    document = tree.document
    if document is None:
        raise ExtractError("no-text", url, "the parser found no document")
    if document.query_selector(">".join(["*"] * _MAX_DEPTH)) is not None:
        raise ExtractError("too-deep", url, f"elements are nested {_MAX_DEPTH} deep or more")
    return tree, document


def _check_tags(html: str, url: str) -> None:
    """Raise ExtractError for a tag with absurdly many attributes (the plain form: quotes may hide a crafted one)."""
    in_script, at = False, 0
    for match in _LONG_TAG.finditer(html):
        scripts = [found[1] for found in _SCRIPT.finditer(html, at, match.start())]
        in_script, at = (not scripts[-1]) if scripts else in_script, match.start()
        if not in_script and len(_QUOTED.sub(" ", match[0]).split()) > _MAX_ATTRIBUTES:
            raise ExtractError("too-many-attributes", url, f"a tag has more than {_MAX_ATTRIBUTES} attributes")


def _resiliparse(tree: HTMLTree, document: DocumentNode) -> str:
    """Return the main text: of the page's own landmark where it states one, else by resiliparse's rules.

    The rules drop some lists of documentation pages (5 % of the items on Slurm's site), a landmark taken whole
    does not. A landmark that holds less than half of what the rules find is not the page's body.
    """
    main = _plain_text(tree, main_content=True)
    for selector in _LANDMARKS:
        marked = document.query_selector_all(selector)
        if len(marked) == 1:
            text = _plain_text(marked[0].html, main_content=False)
            if 2 * len(text) >= len(main):
                return text
    return main if main.strip() else _all_text(tree)


def _all_text(tree: HTMLTree) -> str:
    return _plain_text(tree, main_content=False)


def _plain_text(html: str | HTMLTree, *, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(
        html,
        preserve_formatting=True,
        main_content=main_content,
        alt_texts=False,
        comments=False,
        post_meta=False,
        skip_elements=_SKIP,
    )
    return text


def _trafilatura(html: str, url: str) -> str:
    """Return trafilatura's text, empty when it finds none. As plain text: its Markdown loses code on some pages."""
    return load_trafilatura()(html, url=url, include_comments=False) or ""
