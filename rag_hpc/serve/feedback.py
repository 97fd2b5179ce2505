"""`rag-hpc feedback`: what people thought of a run's answers, as the judged pairs of a BEIR folder to train on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.serve.log import read_log

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.stores.chunks import ChunkStore

LOG = ".log"  # beside the groups of the run, none of which has such a name
SPLITS = ("train", "test")
Grades = dict[str, dict[str, int]]  # of a passage by its id, by question


def feedback(arguments: Arguments) -> int:
    """Write the pairs to `--out FOLDER`, and say how many there are and what was left out."""
    from rag_hpc.arguments import as_json, name_of, number_between, root_of
    from rag_hpc.core.ledger import find_run
    from rag_hpc.serve.ask import manifests
    from rag_hpc.serve.places import FOLDER
    from rag_hpc.stores.chunks import ChunkStore

    if "--out" not in arguments.values:
        raise ConfigError(
            "feedback: where to? Add --out FOLDER, a new one; then: rag-hpc train encoder train.data=FOLDER"
        )
    ledger = find_run(root_of(arguments), name_of(arguments))
    share = number_between("test_share", arguments.override("test_share") or "0", 0, 0.9)
    folder = ledger.run_dir / FOLDER / LOG
    queries = list(read_log(folder, "queries"))
    if not queries:
        raise InputError(
            f"{folder}: no question was kept yet of what serves run={ledger.name}; gateways "
            "keep them with gateway.log=true"
        )
    grades, counts = judged(queries, read_log(folder, "votes"))
    chunks = ChunkStore(manifests(ledger.run_dir, ledger.request())["chunk"])
    counts += export(grades, chunks, Path(arguments.values["--out"]), share)
    if "--json" in arguments.flags:
        print(as_json(dict(counts)))
    else:
        print(", ".join(f"{name.replace('_', ' ')} {num}" for name, num in sorted(counts.items())))
    return 0


def judged(queries: Iterable[dict[str, Any]], votes: Iterable[dict[str, Any]]) -> tuple[Grades, Counter[str]]:
    """Return the passages' grades by question, 1 or 0, and counts: questions, votes, and votes that were not used.

    A vote is of the tenant that asked; the last one on the same thing counts. One on an answer is one on each passage
    that it cites. Of several requests with one question the majority counts; where they are even, nobody is right.
    """
    requests = {(row["request_id"], row["tenant"]): row for row in queries}
    last: dict[tuple[str, str, str], int] = {}
    counts: Counter[str] = Counter(questions=len({_plain(row["question"]) for row in requests.values()}))
    for row in votes:
        counts["votes"] += 1
        if (row["request_id"], row["tenant"]) not in requests:
            counts["votes_of_no_request"] += 1
            continue
        last[row["request_id"], row["tenant"], row["chunk_id"]] = row["vote"]
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for (request_id, tenant, chunk_id), vote in last.items():
        request = requests[request_id, tenant]
        read = json.loads(request["chunk_ids"])
        cited = [one for one in json.loads(request["cited"]) if (request_id, tenant, one) not in last]
        named = [chunk_id] if chunk_id else cited  # but for those that were voted on by themselves
        if not set(named) <= set(read):
            counts["votes_of_no_passage"] += 1
            continue
        for one in named:
            sums[_plain(request["question"]), one] += vote
    counts["even"] = sum(total == 0 for total in sums.values())
    grades: Grades = {}
    for (question, chunk_id), total in sorted(sums.items()):
        if total:
            grades.setdefault(question, {})[chunk_id] = int(total > 0)
    return grades, counts


def export(grades: Grades, chunks: ChunkStore, folder: Path, test_share: float = 0.0) -> Counter[str]:
    """Write corpus.jsonl, queries.jsonl and qrels/train.tsv (and test.tsv) of the questions with a good passage.

    test_share: of the questions, by the hash of their words, so that a question never changes sides. Returns counts:
    pairs, passages_gone (of an earlier generation), questions_without_good. Raises InputError where the folder exists,
    or nothing is left to write.
    """
    ordinals = {chunk_id: n for n, chunk_id in enumerate(chunks.column("chunk_id"))}
    wanted = {chunk_id for found in grades.values() for chunk_id in found}
    counts: Counter[str] = Counter(passages_gone=len(wanted - ordinals.keys()))
    kept = {q: {one: grade for one, grade in found.items() if one in ordinals} for q, found in grades.items()}
    good = {question: found for question, found in kept.items() if 1 in found.values()}
    counts["questions_without_good"] = len(grades) - len(good)
    if not good:
        raise InputError("feedback: no question has a passage that was voted for; nothing is written")
    if folder.exists():
        raise InputError(f"--out {folder}: is there already; name a new folder")
    used = sorted({one for found in good.values() for one in found}, key=ordinals.__getitem__)
    rows = chunks.rows([ordinals[one] for one in used], ["chunk_id", "title", "text"])
    with private_files(), naming_disk(folder):
        (folder / "qrels").mkdir(parents=True)
        _lines(folder / "corpus.jsonl", ({"_id": r["chunk_id"], "title": r["title"], "text": r["text"]} for r in rows))
        _lines(folder / "queries.jsonl", ({"_id": _name(question), "text": question} for question in good))
        for split in SPLITS[: 1 + (test_share > 0)]:
            lines = ["query-id\tcorpus-id\tscore"]
            for question, found in good.items():
                if split == SPLITS[_of_test(question, test_share)]:
                    lines += [f"{_name(question)}\t{one}\t{grade}" for one, grade in sorted(found.items())]
            counts["pairs"] += sum(line.endswith("\t1") for line in lines)
            counts[f"judgements_{split}"] = len(lines) - 1
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return counts


def _plain(question: str) -> str:
    return " ".join(question.split())


def _name(question: str) -> str:
    return "q" + hashlib.sha256(question.encode()).hexdigest()[:24]


def _of_test(question: str, share: float) -> bool:
    return int(hashlib.sha256(b"split" + question.encode()).hexdigest()[:12], 16) < share * 16**12


def _lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=True) + "\n")
