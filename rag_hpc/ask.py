"""`rag-hpc ask "QUESTION"`: search a finished run in this process and answer with verified citations."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.cite import verify_citations
from rag_hpc.core import manifest
from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import plan_path, read_plan, run_handle
from rag_hpc.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments

NEEDED = ("chunk", "lexical", "encode")
SETTINGS = ("retrieve.queries", "retrieve.search", "generate")  # stages whose settings are used


def ask(arguments: Arguments) -> int:
    """Print the answer and the passages it cites; the same search and generator as the run's."""
    from rag_hpc.launchers.ledger import find_run
    from rag_hpc.launchers.verbs import root_of

    question = " ".join(arguments.words).strip()
    if not question:
        raise ConfigError('ask: give a question, e.g. rag-hpc ask "How do I copy a folder?"')
    ledger = find_run(root_of(arguments), arguments.override("run"))
    request = ledger.request()
    if absent := [stage for stage in (*NEEDED, *SETTINGS) if stage not in request.stages]:
        raise ConfigError(f"run={ledger.name}: its pipeline has no {', '.join(absent)}, so nothing can be searched; "
                          "run the same corpus with pipeline=cluster, and ask that run")
    found = answer(ledger.run_dir, question, manifests(ledger.run_dir, request.number), request.settings)
    if "--json" in arguments.flags:
        print(json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    if found["found"]:
        print(f"{found['short']}:")
    print(found["answer"])
    for passage in found["passages"]:
        if passage["cited"]:
            mark = "verified" if passage["supported"] else "not verified"
            print(f"[{passage['number']}] {passage['title']}  {passage['doc_id']}  ({mark})")
    return 0


def manifests(run_dir: Path, submission: int) -> dict[str, Manifest]:
    """Return the manifests that a search needs. Raises IncompleteError when the run is not that far."""
    found = {}
    for stage in NEEDED:
        path = plan_path(run_dir, submission, stage)
        if not path.exists():
            raise IncompleteError(f"run={run_dir.name}: not indexed yet; run: rag-hpc retry run={run_handle(run_dir)}")
        found[stage] = manifest.load(run_dir / read_plan(path).folder)
    return found


def answer(run_dir: Path, question: str, inputs: dict[str, Manifest], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the answer, its passages and whether each citation is supported, as plain values."""
    from rag_hpc.encoder import Encoder
    from rag_hpc.generators.registry import get_generator
    from rag_hpc.passages import read_passages
    from rag_hpc.schema import from_plain
    from rag_hpc.search import Searcher
    from rag_hpc.stages.generate import GenerateConfig
    from rag_hpc.stages.queries import QueriesConfig
    from rag_hpc.stages.retrieve import RetrieveConfig, search_settings

    retrieve = from_plain(RetrieveConfig, settings["retrieve.search"])
    generate = from_plain(GenerateConfig, settings["generate"])
    asked = from_plain(QueriesConfig, settings["retrieve.queries"])
    vector = Encoder(asked.model, threads=1).encode([asked.prefix + question], out=np.float16, allow_truncate=True)
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as scratch:
        searcher = Searcher(inputs["lexical"], inputs["encode"], None, search_settings(retrieve, inputs), SerialComm(),
                            Path(scratch))
        _, ids = searcher.search([question], vector).hits["fused"]
    passages = read_passages(ChunkStore(inputs["chunk"]), [int(i) for i in ids[0] if i >= 0][: generate.k])
    said = get_generator(generate.generator).generate(question, passages)
    supported: dict[int, bool] = {}
    for check in verify_citations(said.text, passages):
        supported[check.citation] = check.supported and supported.get(check.citation, True)
    listed = [{"number": n, "chunk_id": p.chunk_id, "doc_id": p.doc_id, "title": p.title, "text": p.text,
               "cited": n in supported, "supported": supported.get(n, False)} for n, p in enumerate(passages, 1)]
    return {"run": run_dir.name, "question": question, "answer": said.text, "short": said.short, "found": said.found,
            "passages": listed}
