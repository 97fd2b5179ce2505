"""A run's questions, judgements and rankings as the files that TREC's and BEIR's tools read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rag_hpc.core.fs import publish_dir
from rag_hpc.errors import InputError
from rag_hpc.eval import quality
from rag_hpc.eval.results import Results
from rag_hpc.stores.metrics import METRICS, RUN


def write_exchange(run: Results, folder: Path) -> list[str]:
    """Write a new folder and return what is in it: METHOD.trec (TREC run), qrels.txt (TREC), queries.jsonl and
    qrels/test.tsv (BEIR).

    Blanks in ids become underscores in TREC's files, which are divided by blanks. Raises InputError where the folder is
    there already.
    """
    if folder.exists():
        raise InputError(f"--out {folder}: is there already; name a new folder")
    draft = folder.with_name(f".draft-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "qrels").mkdir(parents=True)
    asked = quality.questions(run)
    grades = [(q["query_id"], d, g) for q in asked for d, g in json.loads(q["relevant"]).items()]
    queries = [{"_id": q["query_id"], "text": q["text"], "metadata": _metadata(q)} for q in asked]
    texts = {
        "queries.jsonl": "".join(json.dumps(query, sort_keys=True) + "\n" for query in queries),
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in grades),
        "qrels.txt": "".join(f"{_word(q)} 0 {_word(d)} {g}\n" for q, d, g in grades),
    }
    evaluated = run.manifests["evaluate"]
    for index in evaluated.holders(RUN):
        part = json.loads(evaluated.file(index, METRICS).read_bytes())["part"]
        texts[f"{part}.trec"] = evaluated.file(index, RUN).read_text(encoding="utf-8")
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
    publish_dir(draft, folder)
    return sorted(texts)


def _metadata(question: dict[str, object]) -> dict[str, object]:
    return {"answers": json.loads(str(question["answers"])), "held_out": bool(question["held_out"])}


def _word(text: str) -> str:
    return "_".join(text.split())
