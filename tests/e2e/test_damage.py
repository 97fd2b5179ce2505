"""Whatever of a finished run is damaged: it is named, not needed, or made again; never a traceback or another answer.

RAG_HPC_DAMAGE=all tries every kind of file, damage and verb, which takes an hour, and writes the table in
results/trust/README.md; a part is tried otherwise.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from damage import (
    DAMAGES,
    MENDING,
    QUESTION,
    READING,
    UNREAD,
    WRONG,
    Trial,
    call,
    kinds,
    output_hashes,
    spoil,
    write_table,
)

from tests.e2e.conftest import SMALL, Cli

pytestmark = pytest.mark.timeout(4 * 3600 if os.environ.get("RAG_HPC_DAMAGE") else 900)
TABLE = Path(__file__).parents[2] / "results/trust/README.md"


@pytest.fixture(scope="module")
def trial(cluster: Path, baseline: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A copy of both runs, for no other test to see."""
    root = tmp_path_factory.mktemp("damage")
    for run in (cluster, baseline):
        shutil.copytree(run, root / run.name)
    return Trial(root / cluster.name, root / baseline.name, ("corpus=beir", f"corpus.path={corpus}", *SMALL))


@pytest.mark.skipif("RAG_HPC_DAMAGE" in os.environ, reason="every damage is tried")
def test_a_damage_of_each_kind_is_named_or_not_needed(trial: Trial) -> None:
    wrong = []
    for number, (kind, path) in enumerate(kinds(trial.run_dir).items()):
        turns = [READING[number % 6], READING[(number + 3) % 6], *(["ask"] if number % 12 == 0 else [])]
        damage, verbs = DAMAGES[number % len(DAMAGES)], list(dict.fromkeys([*turns, "verify --files"]))
        cells = trial.reading(path, damage, verbs)
        wrong += [f"{kind} {damage} {verb}: {cell}" for verb, cell in cells.items() if cell.startswith(WRONG)]
        if path.parts[1:2] == ("units",) and cells["verify --files"] == UNREAD:
            wrong.append(f"{kind} {damage}: not seen by verify --files")
    assert wrong == []


@pytest.mark.skipif("RAG_HPC_DAMAGE" not in os.environ, reason="takes an hour; set RAG_HPC_DAMAGE=all")
def test_every_damage_is_named_or_not_needed_or_made_again(trial: Trial) -> None:
    wrong = write_table(trial, TABLE, [*READING, *MENDING])
    assert wrong == []


def test_a_byte_more_in_an_index_is_named_by_every_verb_until_retry_makes_the_unit_again(trial: Trial) -> None:
    index = next(trial.run_dir.glob("lexical-*/units/unit-00001/index.tar"))
    words = (f"run={trial.run_dir.name}", f"cluster.root={trial.run_dir.parent}")
    before, hashes = call("ask", QUESTION, *words), output_hashes(trial.run_dir)
    with index.open("ab") as stream:
        stream.write(b"x")
    for verb in (("ask", QUESTION), ("status",), ("why",)):
        said = call(*verb, *words)
        assert said.code == 1 and f"{index}: " in said.text and "rag-hpc retry --files run=" in said.text, said
    mended = call("retry", *words)
    assert mended.code == 0 and f"{index}: " in mended.text, mended
    assert output_hashes(trial.run_dir) == hashes
    assert call("ask", QUESTION, *words) == before and call("status", *words).code == 0


def test_a_flip_as_old_as_its_file_is_found_when_it_is_read_and_by_retry_files(trial: Trial) -> None:
    """Bits that rot leave the time of the last change as it was."""
    vectors = next(trial.run_dir.glob("encode-*/units/unit-00000/vectors.npy"))
    words, hashes = (f"run={trial.run_dir.name}", f"cluster.root={trial.run_dir.parent}"), output_hashes(trial.run_dir)
    before, times = call("ask", QUESTION, *words), vectors.stat()
    spoil(trial.run_dir, vectors.relative_to(trial.run_dir), "flip", trial.other)
    os.utime(vectors, ns=(times.st_atime_ns, times.st_mtime_ns - 1))
    assert call("retry", *words).code == 0  # it looks at sizes and late changes only
    said = call("ask", QUESTION, *words)
    assert said.code == 1 and f"{vectors}: its bytes are not" in said.text and "rag-hpc retry --files" in said.text
    assert call("retry", "--files", *words).code == 0
    assert output_hashes(trial.run_dir) == hashes and call("ask", QUESTION, *words) == before


def test_a_run_goes_on_over_a_manifest_that_is_cut(trial: Trial) -> None:
    path = next(trial.run_dir.glob("chunk-*/manifest.json"))
    before = path.read_bytes()
    path.write_bytes(before[:-40])
    said = call("status", trial.run_dir.name, f"cluster.root={trial.run_dir.parent}")
    assert said.code == 1 and f"{path}: damaged" in said.text
    again = call("run", f"run={trial.run_dir.name}", f"cluster.root={trial.run_dir.parent}", *trial.command)
    assert again.code == 0 and path.read_bytes() == before, again


def test_a_worker_that_finds_its_input_damaged_says_which_file(trial: Trial, cli: Cli) -> None:
    """The vectors are changed after the submission has looked at them: by a stage's hand at the last, here by us."""
    copy = trial.run_dir.with_name("late")
    shutil.copytree(trial.run_dir, copy)
    shutil.rmtree(next(copy.glob("retrieve.search-*")))
    path = next(copy.glob("vectors.build-*/units/unit-00000/index.faiss"))
    times = path.stat()
    spoil(copy, path.relative_to(copy), "flip", trial.other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    words = ("run=late", f"cluster.root={copy.parent}")
    assert cli("retry", *words, "workers=1").returncode == 3
    told = cli("why", *words).stdout
    assert f"{path}: its bytes are not what the manifest promises; mend it: rag-hpc retry --files run=" in told
    assert cli("retry", "--files", *words, "workers=1").returncode == 0
    assert output_hashes(copy) == output_hashes(trial.run_dir)
