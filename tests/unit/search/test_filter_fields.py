"""Filters by fields of the documents: passages carry them with their kinds, and dates are compared as dates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import stagerun
from manifests import manifest_of

from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.inline import same_for_any_p
from rag_hpc.search.filters import allowed, check_filter
from rag_hpc.stages.chunk import ChunkConfig
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import COLUMNS, ChunkStore, columns_with
from rag_hpc.stores.documents import open_documents
from rag_hpc.stores.fields import FieldKind, date_of, values_of

FIELDS = {"tenant": "string", "year": "number", "published": "date"}
KINDS = {name: FieldKind[kind] for name, kind in FIELDS.items()}
METAS: list[dict[str, Any]] = [
    {"tenant": "north", "year": 1999, "published": "1999-12-31"},
    {"tenant": "south", "year": 2024.5, "published": "2024-05-31T23:59:59Z"},
    {"tenant": "south", "year": "2001", "published": "10000 years ago"},
    {"tenant": 7, "year": True, "published": 20240531},
    {"tenant": ["a"], "published": "2024-02-30"},
    {},
]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """A made-up output of dedup.drop: each document's metadata, and the last one's that is none."""
    folder = tmp_path_factory.mktemp("documents")
    metas = [*map(json.dumps, METAS), "no json"]
    for index in range(3):
        unit_dir = folder / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        with open_documents(unit_dir) as table:
            for at in range(index, len(metas), 3):
                table.add(f"d{at}", f"https://h/{at}", "Title", f"Text number {at}. " * 40, "en", metas[at])
    given = manifest_of(folder, "dedup.drop")
    units = [
        {**unit, "items_in": num, "items_out": num, "dropped": {}, "extra": {}}
        for unit, num in zip(given.units, given.rows("documents.parquet"), strict=True)
    ]
    return {"dedup.drop": dataclasses.replace(given, units=units, output_hash="documents")}


@pytest.fixture(scope="module")
def chunked(documents: dict[str, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    stage = stagerun.chain_or_skip(lambda: make_stage("chunk", {"fields": FIELDS, "max_tokens": 64}))
    return same_for_any_p(stage, documents, tmp_path_factory.mktemp("chunk"))


@pytest.mark.parametrize(
    ("text", "docs"),
    [
        ("tenant == 'south'", [1, 2]),
        ("tenant in ['north', '7']", [0, 3]),
        ("year > 2000", [1, 2]),
        ("year == 2024.5 or year < 2000", [0, 1]),
        ("published > '1999-12-30'", [0, 1]),
        ("published == '2024-05-31'", [1]),
        ("published >= '2000-01-01' and tenant == 'south'", [1]),
        ("published in ['1999-12-31', '2024-05-30']", [0]),
        ("lang == 'en' and not tenant == 'south'", [0, 3, 4, 5, 6]),
    ],
)
def test_passages_are_let_through_by_their_document_s_fields(text: str, docs: list[int], chunked: Manifest) -> None:
    check_filter(text, columns_with(KINDS))
    chunks = ChunkStore(chunked)
    names = [name for name, is_let in zip(chunks.column("doc_id"), allowed(chunks, text), strict=True) if is_let]
    assert sorted(set(names)) == [f"d{at}" for at in docs] and len(names) > len(docs)


def test_what_a_field_cannot_be_compared_with_is_told(chunked: Manifest) -> None:
    for text, told in {
        "published > '31.5.2024'": "a date in quotes, such as '2024-05-31'",
        "published in ['2024-05-31', 'x']": "a date in quotes",
        "published == 2024": "a date in quotes",
        "year == '2001'": "must compare year with a number",
        "tenant == 7": "must compare tenant with a text in quotes",
        "region == 'x'": "no field 'region'; they have chunk_id, .*, num_tokens, tenant, year, published",
    }.items():
        for check in (lambda t: check_filter(t, columns_with(KINDS)), lambda t: allowed(ChunkStore(chunked), t)):
            with pytest.raises(ConfigError, match=told):
                check(text)


def test_documents_without_a_value_are_counted(chunked: Manifest) -> None:
    extra = chunked.extra()
    assert [extra[f"without_{name}"] for name in FIELDS] == [3, 4, 5]


def test_passages_without_fields_have_the_usual_columns(documents: dict[str, Manifest], tmp_path: Path) -> None:
    stage = stagerun.chain_or_skip(lambda: make_stage("chunk", {}))
    plain = stagerun.run_stage(tmp_path, stage.name, {}, documents)
    assert ChunkStore(plain).columns == COLUMNS and "without_tenant" not in plain.extra()


@pytest.mark.parametrize(("name", "told"), [("pub-date", "no name for a filter"), ("class", "no name"), ("url", "own")])
def test_a_name_that_no_filter_could_write_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ChunkConfig(fields={name: FieldKind.string})


def test_values_of_other_kinds_are_none() -> None:
    numbers = {"n": FieldKind.number}
    assert [values_of(json.dumps({"n": n}), numbers) for n in (3, "1e3", "x", 10**400, None)] == [
        [3.0], [1000.0], [None], [None], [None]
    ]  # fmt: skip
    assert values_of('{"s": true}', {"s": FieldKind.string}) == ["true"] and values_of("[1]", numbers) == [None]
    assert [str(date_of(text)) for text in (" 2024-05-31 ", "2024-05-31 10:00", "2024-05-311", "20240531", "")] == [
        "2024-05-31", "2024-05-31", "None", "None", "None"
    ]  # fmt: skip
