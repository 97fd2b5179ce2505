"""`rag-hpc page ID`: a page of a run as it is stored, which is what citations lead to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger, run_handle
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import read_plans
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.stores.documents import DOCUMENTS, find_document
from rag_hpc.stores.tables import read_column

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

STAGE = "dedup.drop"  # whose documents are those that passages are cut from


def page(arguments: Arguments) -> int:
    """Print the title, address and text of the page with an id, or with that address."""
    from rag_hpc.arguments import as_json, reads_shared, root_of
    from rag_hpc.core.ledger import find_run

    if not arguments.words:
        raise ConfigError("which one? Its id or its address, as it stands behind a citation: rag-hpc page ID run=NAME")
    ledger = find_run(root_of(arguments), arguments.override("run"), shared=reads_shared(arguments))
    found = find_page(ledger, arguments.words[0])
    text = f"{found['title']}\n{found['url'] or found['doc_id']}\n\n{found['text']}"
    print(as_json(found) if "--json" in arguments.flags else text)
    return 0


def documents(ledger: Ledger) -> Manifest:
    """Return the manifest of a run's documents. Raises IncompleteError when there is none yet."""
    request = ledger.request()
    stages = [stage for stage in request.stages if stage == STAGE]
    plans = read_plans(ledger.run_dir, request.number, stages, request.settings)
    if STAGE not in plans:
        handle = run_handle(ledger.run_dir)
        raise IncompleteError(f"run={ledger.name}: its pages are not stored yet; run: rag-hpc retry run={handle}")
    return manifest.load(ledger.run_dir / plans[STAGE].folder)


def find_page(ledger: Ledger, page_id: str) -> dict[str, Any]:
    """Return doc_id, url, title, text, lang and meta of a page. Raises InputError when the run has none of that id."""
    stored = documents(ledger)
    row = find_document(stored, page_id)
    if row is not None:
        return row | {"meta": json.loads(row["meta"] or "{}")}
    known = (name for path in stored.files(DOCUMENTS) for name in read_column(path, "doc_id"))
    near = sorted({name for name in known if page_id in name})[:3]
    raise InputError(
        f"page {page_id}: run={ledger.name} has no page of that id or address; "
        + (f"did you mean {' or '.join(near)}?" if near else "ids stand behind the citations of: rag-hpc ask")
    )
