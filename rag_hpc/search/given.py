"""A FAISS index that another tool made of a run's passages, brought under the run's ordinals.

It is a folder as Pyserini has it: `index`, and `docid`, a line for each vector. N vectors, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import F32, I64
from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.search import indexes
from rag_hpc.stores.shards import Kind
from rag_hpc.stores.vectors import VectorStore

INDEX, IDS = "index", "docid"
SAMPLED = 256  # vectors held against the run's own
FARTHEST = 0.05  # of a vector's length: other arithmetic, and halves; another encoder's are farther by far


def digest(folder: str) -> str:
    """Return the hash of the two files."""
    return hash_value([hash_file(file) for file in files_of(folder)])


def files_of(folder: str) -> list[Path]:
    """Return the two files. Raises ConfigError where one is not there."""
    files = [Path(folder).expanduser() / name for name in (INDEX, IDS)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ConfigError(
            f"stage.vectors.prebuilt={folder}: {' and '.join(absent)} not there; a folder as Pyserini's is needed: "
            f"a FAISS index in {INDEX}, and the chunk_id of each of its vectors, a line each, in {IDS}"
        )
    return files


def opened(folder: str, dims: int) -> tuple[Kind, Any]:
    """Return the index and its kind. Raises InputError for one of other dimensions, or that is not searched here."""
    import faiss

    faiss.omp_set_num_threads(1)
    path = Path(folder).expanduser() / INDEX
    try:
        index: Any = faiss.read_index(str(path))
    except RuntimeError as error:
        raise InputError(f"stage.vectors.prebuilt: FAISS cannot read {path}: {str(error).splitlines()[-1]}") from error
    kind = _kind_of(index)
    if kind is None or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        metric = "inner product" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "another metric"
        raise InputError(
            f"stage.vectors.prebuilt={folder}: {type(index).__name__} by {metric} is not searched here; known, by "
            "inner product: IndexFlat, IndexHNSWFlat, IndexIVFFlat, IndexIVFScalarQuantizer of fp16 without residuals"
        )
    if index.d != dims:
        raise InputError(
            f"stage.vectors.prebuilt={folder}: its vectors have {index.d} dimensions, this run's {dims}; "
            "set stage.encode.model to the encoder that made them"
        )
    return kind, index


def ordinals_of(folder: str, chunk_ids: Sequence[str], num_vectors: int) -> I64:
    """Return the ordinals [N] of the index's vectors. Raises InputError where ids do not match, one to one."""
    names = (Path(folder).expanduser() / IDS).read_text(encoding="utf-8").splitlines()
    known = {name: ordinal for ordinal, name in enumerate(chunk_ids)}
    strangers, missing = [name for name in names if name not in known], sorted(known.keys() - set(names))
    if strangers or missing or not len(names) == num_vectors == len(known):
        examples = ", ".join([*strangers[:2], *missing[:2]])
        raise InputError(
            f"stage.vectors.prebuilt={folder}: {num_vectors} vectors with {len(names)} ids, of which {len(strangers)} "
            f"are no chunk_id of this run; {len(missing)} of its {len(known)} passages are not there ({examples})"
        )
    return np.array([known[name] for name in names], dtype=np.int64)


def renumbered(kind: Kind, index: Any, ordinals_N: I64) -> Any:
    """Return the index with its vectors under their ordinals, as `indexes.empty_index` lays it out; it is used up."""
    import faiss

    if not kind.has_lists:
        made: Any = faiss.IndexIDMap(faiss.IndexFlatIP(index.d))  # which takes an empty index only
        made.index, made.ntotal = index, index.ntotal
        made.referenced_objects = [index]  # it does not own it, and must not outlive it
        faiss.copy_array_to_vector(ordinals_N, made.id_map)
        return made
    made = indexes.empty_index(kind, centroids(index))
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            held = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            ids = np.ascontiguousarray(ordinals_N[held])
            made.invlists.add_entries(number, size, faiss.swig_ptr(ids), index.invlists.get_codes(number))
    made.ntotal = index.ntotal
    return made


def centroids(index: Any) -> F32:
    """Return the centroids of an index with lists; one zero vector for another, which has no use for it."""
    found = indexes.centroids_of(index)
    return np.zeros((1, index.d), dtype=np.float32) if found is None else found


def check_vectors(folder: str, index: Any, ordinals_N: I64, store: VectorStore) -> None:
    """Raise InputError where vectors of the index as it was read are not those of the run's encoder."""
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    places = np.unique(np.linspace(0, len(ordinals_N) - 1, min(len(ordinals_N), SAMPLED)).astype(np.int64))
    theirs = np.stack([index.reconstruct(int(place)) for place in places])
    order = np.argsort(ordinals_N[places])
    ours = store.take(ordinals_N[places][order]).astype(np.float32)
    gaps = np.linalg.norm(theirs[order] - ours, axis=1) / np.maximum(np.linalg.norm(ours, axis=1), 1e-6)
    if not (worst := float(gaps.max())) <= FARTHEST:
        passage = ordinals_N[places][order][int(np.argmax(gaps))]
        raise InputError(
            f"stage.vectors.prebuilt={folder}: its vector of passage {passage} is {worst:.2g} of a length away from "
            f"this run's, more than {FARTHEST:g}; it is of another encoder, prefix, or text: set stage.encode to what "
            "made it"
        )


def _kind_of(index: Any) -> Kind | None:
    import faiss

    if isinstance(index, faiss.IndexHNSWFlat):
        return Kind.hnsw
    if type(index) in (faiss.IndexFlat, faiss.IndexFlatIP):
        return Kind.flat
    if type(index) is faiss.IndexIVFFlat:
        return Kind.ivf_flat
    if type(index) is faiss.IndexIVFScalarQuantizer:
        halves = index.sq.qtype == faiss.ScalarQuantizer.QT_fp16 and not index.by_residual
        return Kind.ivf_fp16 if halves else None
    return None
