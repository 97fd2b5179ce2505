"""`rag-hpc serve warm`: the answers to the questions that are asked most often, as files that all gateways read."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.errors import InputError
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind
from rag_hpc.serve.cache.files import Files, fill
from rag_hpc.serve.cache.scope import scope_of, secret_of, settings_of
from rag_hpc.serve.feedback import LOG
from rag_hpc.serve.log import frequent, read_log

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger

FILES = ".answers"  # beside the groups of the run, none of which has such a name
MOST = 1000


def warm(arguments: Arguments, ledger: Ledger) -> int:
    """Answer the run's most frequent questions by the query log, or those of `--file`, and write what was found."""
    from rag_hpc.arguments import whole_number
    from rag_hpc.schema import from_plain
    from rag_hpc.serve.ask import check_pipeline, generator_of, manifests, opened, pages_of, plain, read_questions
    from rag_hpc.serve.places import FOLDER

    most = whole_number("most", arguments.override("most"), MOST, least=1)
    tenant = arguments.override("tenant") or ""
    config = from_plain(CacheConfig, settings_of(arguments.overrides))
    folder = Path(config.files) if config.files else ledger.run_dir / FOLDER / FILES
    log = ledger.run_dir / FOLDER / LOG
    file = arguments.values.get("--file")
    if file:
        asked = [row["question"] for row in read_questions(file)]
    else:
        asked = frequent([*read_log(log, "queries")], tenant, most)
    if not asked:
        raise InputError(
            f"{log}: no question of tenant={tenant!r} was answered yet; name some with --file FILE, "
            "or let gateways keep them with gateway.log=true"
        )
    request, secret, now = ledger.request(), secret_of(ledger.run_dir), time.time()
    check_pipeline(ledger.name, request)
    generator = generator_of(arguments, request.settings["generate"].get("generator", {}))
    scope = scope_of(manifests(ledger.run_dir, request), request, generator, tenant)
    there, values = Files(folder, secret, Counter()), {}
    page_of = pages_of(ledger)
    with opened(ledger, request, generator) as (asker, near):
        for question in asked[:most]:
            digest = Key(kind=Kind.answer, scope=scope, text=question).digest(secret)
            if there.get(digest) is not None:
                continue
            value = {**plain(ledger.name, question, asker.answer(question), page_of), "coverage": near.coverage}
            answered, _, shards = near.coverage.partition("/")
            if value["found"] and answered == shards:  # what is partial is for nobody else
                values[digest] = (value, now + config.answer_ttl_s)
    told = fill(folder, secret, values, now, tenant)
    print(f"{folder}: {told['names']} answers in {told['bytes']:,} bytes, {told['new']} of them new")
    print(f"gateways read them with cache.files={folder}")
    return 0
