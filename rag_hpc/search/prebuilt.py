"""A Lucene index that another tool made of a run's passages or documents, and where its documents stand among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.search.jvm import java, java_string, start
from rag_hpc.search.lucene import CONTENTS, ID, LOCK, Indexing
from rag_hpc.search.shards import Shards

Span = tuple[int, int]  # the ordinals [first, stop) of a document's passages


def digest(folder: str) -> str:
    """Return the hash of an index's files and their names."""
    return hash_value({file.name: hash_file(file) for file in files_of(folder)})


def files_of(folder: str) -> list[Path]:
    """Return an index's files by name. Raises ConfigError for a folder that holds no index."""
    path = Path(folder).expanduser()
    if not any(path.glob("segments_*")):
        raise ConfigError(
            f"stage.lexical.prebuilt={folder}: no Lucene index is there; name the folder that has its segments_N"
        )
    return sorted(file for file in path.iterdir() if file.name != LOCK)


def spans_in(folder: Path, spans: Mapping[str, Span], how: Indexing, heap_mib: int = 0) -> I64:
    """Return the spans of the index's documents in its order, [documents, 2].

    spans: by the id that a document must have. Raises InputError where ids do not match, one to one, or where the index
    lacks what `how` asks for.
    """
    start(heap_mib)
    _check_fields(folder, how)
    shards = Shards([folder], heap_mib=heap_mib)
    names = shards.ids(range(shards.max_doc))
    shards.close()
    strangers = [name for name in names if name not in spans]
    missing = sorted(spans.keys() - set(names))
    if strangers or missing or len(names) > len(spans):
        raise InputError(
            f"stage.lexical.prebuilt={folder}: of its {len(names)} documents {len(strangers)} are none of the run's "
            f"{len(spans)}{_some(strangers)}, and {len(missing)} of the run's are not in it{_some(missing)}; "
            f"{len(names) - len(set(names))} ids come twice. Its ids must be the run's chunk_id, or with "
            "stage.lexical.whole_documents=true the doc_id, one document each; or leave prebuilt empty to build it here"
        )
    return np.array([spans[name] for name in names], dtype=np.int64).reshape(-1, 2)


def _check_fields(folder: Path, how: Indexing) -> None:
    """Raise InputError where the index lacks a field, frequencies, or what phrases and feedback read."""
    directory = java("org.apache.lucene.store.FSDirectory").open(java("java.nio.file.Paths").get(str(folder)))
    try:
        reader = java("org.apache.lucene.index.DirectoryReader").open(directory)
    except Exception as error:  # pyjnius has one class for all that Java throws
        said = str(error).strip().split("\n")[0]
        raise InputError(f"stage.lexical.prebuilt={folder}: Lucene cannot open it: {said}") from error
    infos = java("org.apache.lucene.index.FieldInfos").getMergedFieldInfos(reader)
    lacks = []
    for name in (CONTENTS, *how.fields):
        info = infos.fieldInfo(java_string(name))
        options = info.getIndexOptions().toString() if info else "NONE"
        if "FREQS" not in options or info.omitsNorms():
            lacks.append(f"the field {name} with frequencies and norms")
            continue
        if how.positions and "POSITIONS" not in options:
            lacks.append(f"positions in {name} (stage.lexical.positions)")
        if how.term_vectors and name == CONTENTS and not info.hasVectors():
            lacks.append("document vectors (stage.lexical.term_vectors)")
    if not infos.fieldInfo(java_string(ID)):
        lacks.append(f"the field {ID}")
    reader.close()
    if lacks:
        raise InputError(f"stage.lexical.prebuilt={folder}: it lacks {', '.join(lacks)}; index again with that")


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
