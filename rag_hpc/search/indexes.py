"""Vector indexes of every kind: how they are made of what was trained once, filled, merged, and asked.

Q queries, N rows, D dimensions, L lists, K hits. FAISS does the work. A row's code score depends on the query and the
row alone, since lists are chosen here and not by FAISS, whose products differ with the number of
queries; ties go to the lower id. So shortlists of shards merge to the shortlist of one index, bit for bit.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from rag_hpc.algo.rank.topk import (
    Hits,
    canonical_scores,
    error_bound,
    exact_topk,
    largest_error,
    longest,
    merge_topk,
    nearest_rows,
    nothing,
    single,
)
from rag_hpc.algo.types import F32, I64, U8, Array
from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.stores.shards import Effort, Kind

LINKS = 32  # of a node of the graph, twice as many on its ground floor
_EF_CONSTRUCTION = 100
BLOCK = 16384  # rows added at once
_COMPARED = 4096  # rows whose lists are looked for at once, so that their float32 are made in memory that stays
_FEW = 16  # rows whose lists FAISS finds without a matrix product, each on its own
LEAST_ROWS = {Kind.ivf_pq: 256, Kind.ivf_pq_fastscan: 16}  # a codebook has as many entries


def require_faiss() -> None:
    """Raise MissingDependency where FAISS is absent, and where both of its builds are there: they are one module."""
    import importlib.metadata
    import importlib.util

    if importlib.util.find_spec("faiss") is None:
        raise MissingDependency("vectors: faiss is not installed; pip install 'rag-hpc[cpu]', or 'rag-hpc[gpu]'")
    builds = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()} & {"faiss-cpu", "faiss-gpu"}
    if len(builds) > 1:
        raise MissingDependency(
            "vectors: faiss-cpu and faiss-gpu are both installed and overwrite each other; pip uninstall -y faiss-cpu "
            "faiss-gpu, then pip install 'rag-hpc[cpu]' or 'rag-hpc[gpu]'"
        )


def alone() -> None:
    """Keep FAISS from starting threads for what the calling thread asks: it asks OpenMP, which asks every thread."""
    import faiss

    faiss.omp_set_num_threads(1)


def sub_dims(dims: int, most: int) -> int:
    """Return the most dimensions that a code can stand for: a divisor of all."""
    return max(n for n in range(1, most + 1) if dims % n == 0)


def template(kind: Kind, centroids_LD: F32, sample_ND: Array) -> U8 | None:
    """Return the bytes of an empty index with its codebooks, trained on a sample; None for kinds without."""
    import faiss

    if not kind.has_codes:
        return None
    if len(sample_ND) < LEAST_ROWS.get(kind, 1):
        raise ConfigError(
            f"stage.vectors.index={kind.value}: the sample has {len(sample_ND)} vectors, and its codebooks need "
            f"{LEAST_ROWS[kind]}; set stage.vectors.index=ivf_fp16"
        )
    faiss.omp_set_num_threads(1)
    index = _coded(kind, centroids_LD)
    index.cp.min_points_per_centroid = 1  # or FAISS warns of small samples on stderr
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(sample_ND, dtype=np.float32))
    made: U8 = faiss.serialize_index(index)
    return made


def empty_index(kind: Kind, trained: Array) -> Any:
    """Return an empty index. trained: the centroids [L, D] or, of kinds with codebooks, what `template` returned."""
    import faiss

    faiss.omp_set_num_threads(1)  # one worker is one thread; results must not depend on more
    if kind.has_codes:
        return faiss.deserialize_index(trained)
    centroids_LD, dims = trained, trained.shape[1]
    if kind is Kind.flat:
        return faiss.IndexIDMap(faiss.IndexFlatIP(dims))
    if kind is Kind.hnsw:
        graph = faiss.IndexHNSWFlat(dims, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        return faiss.IndexIDMap(graph)
    index: Any
    if kind is Kind.ivf_flat:
        index = faiss.IndexIVFFlat(_quantizer(centroids_LD), dims, len(centroids_LD), faiss.METRIC_INNER_PRODUCT)
    else:
        fp16 = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(
            _quantizer(centroids_LD), dims, len(centroids_LD), fp16, faiss.METRIC_INNER_PRODUCT, False
        )
    index.is_trained = True
    return index


def add(index: Any, vectors_ND: Array, ids_N: I64) -> None:
    """Add rows under their ids, a block at a time. In which list a row goes depends on the row alone."""
    import faiss

    centroids_LD = centroids_of(index)
    direct = centroids_LD is not None and not isinstance(index, faiss.IndexIVFFastScan)
    for low in range(0, len(vectors_ND), BLOCK):
        rows_BD = np.ascontiguousarray(vectors_ND[low : low + BLOCK], dtype=np.float32)
        ids_B = np.ascontiguousarray(ids_N[low : low + BLOCK], dtype=np.int64)
        if centroids_LD is None:
            index.add_with_ids(rows_BD, ids_B)
            continue
        lists_B, gap_B = nearest(rows_BD, centroids_LD)
        if direct:
            index.add_core(len(rows_BD), faiss.swig_ptr(rows_BD), faiss.swig_ptr(ids_B), faiss.swig_ptr(lists_B))
            continue
        # FastScan finds lists by itself: rows between two go in so few at a time that FAISS takes them one by one
        index.add_with_ids(rows_BD[gap_B > 0], ids_B[gap_B > 0])
        between = np.flatnonzero(gap_B <= 0)
        for at in range(0, len(between), _FEW):
            part = between[at : at + _FEW]
            index.add_with_ids(rows_BD[part], ids_B[part])


def nearest(rows_BD: Array, centroids_LD: F32) -> tuple[I64, F32]:
    """Return each row's list, and by how much its score is above the second's at the least.

    The list is that of the largest canonical score, the first of equal ones, whatever rows stand beside.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    flat, longest_L = _quantizer(centroids_LD), longest(np.asarray(centroids_LD, dtype=np.float32))
    lists_B, gap_B = np.zeros(len(rows_BD), dtype=np.int64), np.full(len(rows_BD), np.inf, dtype=np.float32)
    for low in range(0, len(rows_BD) if len(centroids_LD) > 1 else 0, _COMPARED):
        given_BD = rows_BD[low : low + _COMPARED]
        part_BD = single(given_BD)
        scores_B2, lists_B2 = flat.search(part_BD, 2)
        error = np.float32(2 * largest_error(given_BD, longest_L) * (1 + 2.0**-20))
        gap = scores_B2[:, 0] - scores_B2[:, 1] - error
        between = np.flatnonzero(gap <= 0)
        if len(between):
            lists_B2[between, :1] = exact_topk(part_BD[between], centroids_LD, 1)[1]
        lists_B[low : low + _COMPARED], gap_B[low : low + _COMPARED] = lists_B2[:, 0], gap
    return lists_B, gap_B


def centroids_of(index: Any) -> F32 | None:
    """Return the centroids of an index with inverted lists, None for another."""
    if not hasattr(index, "quantizer"):
        return None
    import faiss

    quantizer = faiss.downcast_index(index.quantizer)
    centroids_LD: F32 = quantizer.reconstruct_n(0, quantizer.ntotal)
    return centroids_LD


def join(joined: list[Any], index: Any) -> None:
    """Merge an index into the first of `joined` that can take it, or put it behind them."""
    for one in joined:
        if _takes(one, index):
            one.merge_from(index, 0)
            return
    joined.append(index)


def _takes(index: Any, other: Any) -> bool:
    """Return whether FAISS can merge another index into one.

    To a list of packed codes (FastScan, RaBitQ) whose rows are a multiple of its block's bytes FAISS 1.15 appends at
    the wrong place, beyond its memory (BlockInvertedLists::add_entries).
    """
    faiss: Any = import_module("faiss")
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is None:
        return True
    lists, added = (faiss.downcast_InvertedLists(faiss.try_extract_index_ivf(one).invlists) for one in (index, other))
    block_bytes = getattr(lists, "block_size", 0)
    return not block_bytes or not any(
        (size := lists.list_size(number)) and size % block_bytes == 0 and added.list_size(number)
        for number in range(lists.nlist)
    )


class Shards:
    """The shards that a rank holds, as one where their kind allows it: each list is then read once a query."""

    def __init__(self, shards: list[Any], effort: Effort) -> None:
        """The shards are used up. `effort.kind` is theirs."""
        self.effort = effort
        self._shards: list[Any] = list(shards) if effort.kind is Kind.hnsw else []
        for index in shards if effort.kind is not Kind.hnsw else ():
            join(self._shards, index)
        self._centroids_LD = centroids_of(shards[0]) if shards else None

    @property
    def num_lists(self) -> int:
        """The inverted lists; 0 where there are none."""
        return 0 if self._centroids_LD is None else len(self._centroids_LD)

    @property
    def num_held(self) -> int:
        """The rows."""
        return sum(int(index.ntotal) for index in self._shards)

    @property
    def num_probes(self) -> int:
        """The lists that a query probes."""
        return min(max(1, self.effort.num_probes), self.num_lists)

    def choose_lists(self, queries_QD: F32) -> Hits:
        """Return the lists that queries probe with their scores, both [Q, num_probes]; of kinds that have lists."""
        assert self._centroids_LD is not None
        return nearest_rows(queries_QD, self._centroids_LD, self.num_probes)

    def shortlist(self, queries_QD: F32, num: int, allowed_N: Array | None = None, probes: Hits | None = None) -> Hits:
        """Return the `num` best rows by (code score, id); of graphs, of the rows that they came by.

        allowed_N: of each id whether it may be found; None: all may. probes: lists chosen before, -1 for none.
        """
        kind, parts = self.effort.kind, []
        if self._centroids_LD is not None and probes is None:
            probes = self.choose_lists(queries_QD)
        for index in self._shards:
            if probes is not None:
                parts.append(_probed(index, queries_QD, num, probes, _bits(allowed_N)))
            elif kind is Kind.flat:
                parts.append(_flat(index, queries_QD, num, allowed_N))
            else:
                parts.append(_walked(index, queries_QD, num, self.effort.ef_search, _bits(allowed_N)))
        if len(parts) < 2:
            return parts[0] if parts else nothing(len(queries_QD), num)
        return merge_topk(parts, num)


def ids_of(index: Any) -> I64:
    """Return the ids of an index's rows, in no order."""
    faiss: Any = import_module("faiss")
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is None:
        ids_N: I64 = faiss.vector_to_array(index.id_map)
        return ids_N
    lists = inverted.invlists
    held = [(lists.get_ids(number), lists.list_size(number)) for number in range(lists.nlist)]
    parts = [faiss.rev_swig_ptr(ids, size).copy() for ids, size in held if size]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _bits(allowed_N: Array | None) -> U8 | None:
    """Return what FAISS's selector reads, and does not own."""
    return None if allowed_N is None else np.packbits(allowed_N, bitorder="little")


def _parameters(name: str, bits: U8 | None, **numbers: int) -> Any:
    """Return FAISS's parameters of a search, which read `bits` as long as they live."""
    faiss: Any = import_module("faiss")  # its stubs do not know these
    selected = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
    return getattr(faiss, name)(**numbers, **selected)


def _probed(index: Any, queries_QD: F32, num: int, probes: Hits, bits: U8 | None) -> Hits:
    """Return the best of some lists. More than asked for are fetched until the last is worse than the last wanted:
    which of equal scores FAISS keeps depends on the order in which it reads them."""
    import faiss

    scores_QK, ids_QK = nothing(len(queries_QD), num)
    open_Q, asked = np.arange(len(queries_QD)), num + num // 8 + 8
    given = _parameters("SearchParametersIVF", bits, nprobe=probes[1].shape[1])
    while len(open_Q):
        asked = min(asked, max(num, int(index.ntotal)))
        found = nothing(len(open_Q), asked)
        read = [np.ascontiguousarray(part[open_Q]) for part in (queries_QD, probes[1], probes[0])]
        queries, lists, near, scores, ids = map(faiss.swig_ptr, (*read, *found))
        # FAISS's own wrapper of this takes no selector
        index.search_preassigned_c(len(open_Q), queries, asked, lists, near, scores, ids, False, given)
        scores, ids = merge_topk([found], asked)
        done = (ids[:, -1] < 0) | (scores[:, -1] < scores[:, num - 1]) | (asked >= index.ntotal)
        scores_QK[open_Q[done]], ids_QK[open_Q[done]] = scores[done, :num], ids[done, :num]
        open_Q, asked = open_Q[~done], 2 * asked
    return scores_QK, ids_QK


def _flat(index: Any, queries_QD: F32, num: int, allowed_N: Array | None) -> Hits:
    """Return the best of all rows, by canonical scores: FAISS's own differ with the number of queries."""
    import faiss

    rows: Any = faiss.downcast_index(index.index)
    ids_N = faiss.vector_to_array(index.id_map)
    held_ND = faiss.rev_swig_ptr(rows.get_xb(), rows.ntotal * rows.d).reshape(rows.ntotal, rows.d)
    scores_QK, ids_QK = nothing(len(queries_QD), num)
    bits = _bits(None if allowed_N is None else allowed_N[ids_N])
    most = len(ids_N) if allowed_N is None else int(allowed_N[ids_N].sum())
    given = None if bits is None else _parameters("SearchParameters", bits)
    open_Q, asked = np.arange(len(queries_QD) if most else 0), num + 8
    while len(open_Q):
        asked = min(asked, most)
        approx, at = rows.search(queries_QD[open_Q], asked, params=given)
        left, right = np.repeat(queries_QD[open_Q], asked, axis=0), held_ND[at.reshape(-1)]
        exact = canonical_scores(left, right).reshape(at.shape)
        scores, ids = merge_topk([(exact, ids_N[at])], num)
        error_Q = error_bound(queries_QD[open_Q], held_ND[at.reshape(-1)])
        done = (approx[:, -1] < scores[:, -1] - error_Q) | (asked == most)
        scores_QK[open_Q[done]], ids_QK[open_Q[done]] = scores[done], ids[done]
        open_Q, asked = open_Q[~done], 2 * asked
    return scores_QK, ids_QK


def _walked(index: Any, queries_QD: F32, num: int, ef_search: int, bits: U8 | None) -> Hits:
    given = _parameters("SearchParametersHNSW", bits, efSearch=max(ef_search, num))
    scores, ids = index.search(queries_QD, num, params=given)
    return merge_topk([(scores, ids)], num)


def _coded(kind: Kind, centroids_LD: F32) -> Any:
    import faiss

    lists, dims = centroids_LD.shape
    quantizer, metric = _quantizer(centroids_LD), faiss.METRIC_INNER_PRODUCT
    if kind is Kind.ivf_sq8:
        eight = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexIVFScalarQuantizer(quantizer, dims, lists, eight, metric, False)
    if kind is Kind.ivf_pq:
        return faiss.IndexIVFPQ(quantizer, dims, lists, dims // sub_dims(dims, 8), 8, metric)
    if kind is Kind.ivf_pq_fastscan:
        index = faiss.IndexIVFPQFastScan(quantizer, dims, lists, dims // sub_dims(dims, 4), 4, metric)
        index.by_residual = False
        return index
    if not hasattr(faiss, "IndexIVFRaBitQFastScan"):
        raise MissingDependency(
            f"stage.vectors.index=ivf_rabitq: faiss {faiss.__version__} does not have it; pip install 'faiss-cpu>=1.14'"
        )
    return faiss.IndexIVFRaBitQFastScan(quantizer, dims, lists, metric, 32)


def _quantizer(centroids_LD: F32) -> Any:
    import faiss

    quantizer = faiss.IndexFlatIP(centroids_LD.shape[1])
    quantizer.add(np.ascontiguousarray(centroids_LD, dtype=np.float32))
    return quantizer
