"""datatrove's MinHash pipeline as its example runs it: signatures, buckets, clusters, filter, on one core."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from rag_hpc.eval.bench.dedup.given import Document


def write_input(folder: Path, documents: Sequence[Document]) -> Path:
    """Return the folder with the documents as JSON Lines."""
    folder.mkdir(parents=True)
    with (folder / "00000.jsonl").open("w", encoding="utf-8") as stream:
        for name, text in documents:
            stream.write(json.dumps({"id": name, "text": text}) + "\n")
    return folder


def deduplicate(source: Path, work: Path) -> int:
    """Run the four steps with datatrove's default settings (14 bands of 8, 5-grams, xxhash); return what stays."""
    names = ("executor", "pipeline.dedup.minhash", "pipeline.readers", "pipeline.writers.jsonl")
    executor, dedup, readers, writers = (importlib.import_module(f"datatrove.{name}") for name in names)
    config = dedup.MinhashConfig()
    reader = readers.JsonlReader(str(source), glob_pattern="*.jsonl")
    steps = [
        ([reader, dedup.MinhashDedupSignature(output_folder=f"{work}/signatures", config=config)], 1),
        (
            [
                dedup.MinhashDedupBuckets(
                    input_folder=f"{work}/signatures", output_folder=f"{work}/buckets", config=config
                )
            ],
            config.num_buckets,
        ),
        ([dedup.MinhashDedupCluster(input_folder=f"{work}/buckets", output_folder=f"{work}/remove", config=config)], 1),
        (
            [
                reader,
                dedup.MinhashDedupFilter(input_folder=f"{work}/remove"),
                writers.JsonlWriter(f"{work}/kept", output_filename="${rank}.jsonl", compression=None),
            ],
            1,
        ),
    ]
    with contextlib.redirect_stderr(io.StringIO()):  # its log; what fails raises
        for number, (pipeline, tasks) in enumerate(steps):
            executor.LocalPipelineExecutor(
                pipeline=pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/logs/{number}"
            ).run()
    return sum(1 for path in Path(f"{work}/kept").iterdir() for _ in path.open("rb"))
