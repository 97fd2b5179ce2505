"""Runs that version 0.1.0 wrote are still read: golden/runs-0.1.0.tar.zst holds a baseline and a run of two workers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from rag_hpc import cli

RUNS = Path(__file__).parents[1] / "golden" / "runs-0.1.0.tar.zst"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs, unpacked."""
    folder = tmp_path_factory.mktemp("old")
    packed = zstandard.ZstdDecompressor().stream_reader(RUNS.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(packed.read())) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status", "old-cluster"), 0, "run old-cluster  submission 1  workers 2  finished"),
        (("why", "old-cluster"), 0, "run old-cluster: finished"),
        (("logs", "clean", "run=old-cluster"), 0, "clean unit-00000 committed"),
        (("verify", "old-baseline", "old-cluster"), 0, "13 of 13 comparable stages are the same"),
        (
            ("verify", "old-baseline", "old-cluster", "--files"),
            0,
            "old-cluster: hashes of the old kind in 16 manifests",
        ),
        (("milestones", "old-cluster"), 0, "0 missed"),
        (("scaling", "old-baseline", "old-cluster"), 0, "dedup"),
    ],
)
def test_an_old_run_is_still_read(
    words: tuple[str, ...], code: int, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, f"cluster.root={root}"]) == code
    assert said in capsys.readouterr().out


def test_an_old_run_has_its_report(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["report", "old-cluster", f"cluster.root={root}", f"--out={page}"]) == 0
    assert "13 of 13" in page.read_text(encoding="utf-8")


def test_an_old_run_is_not_gone_on_with_and_stays_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(root.rglob("*"))
    assert cli.main(["retry", "old-cluster", f"cluster.root={root}"]) == 2
    assert "another version, whose settings of crawl are no longer these" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before
