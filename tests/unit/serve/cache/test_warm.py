"""`serve warm` answers what is asked most often, and every gateway of the run then has it."""

from __future__ import annotations

import json
from pathlib import Path

import fixedcorpus
import pytest
import servedrun
import stagerun

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.generators.config import CompressConfig, GeneratorConfig, GeneratorName
from rag_hpc.serve import ask
from rag_hpc.serve.cache import warm
from rag_hpc.serve.cache.cache import Cache
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.scope import SECRET, scope_of, secret_of
from rag_hpc.serve.feedback import LOG
from rag_hpc.serve.log import QueryLog
from rag_hpc.serve.places import FOLDER


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, tmp_path: Path) -> Ledger:
    return servedrun.make_run(chain, tmp_path)


def _scope(run: Ledger, generator: GeneratorConfig | None = None, tenant: str = "t", only: str = "") -> Scope:
    request = run.request()
    return scope_of(ask.manifests(run.run_dir, request), request, generator or GeneratorConfig(), tenant, only)


def test_answers_of_the_log_are_read_by_whoever_serves_the_run(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.run_dir.parents[2])
    assert main(["serve", "warm", "run=demo", "tenant=t"]) == 1
    assert "no question of tenant='t' was answered yet" in capsys.readouterr().err
    log = QueryLog(run.run_dir / FOLDER / LOG)
    asked = [fixedcorpus.ASKED["caching"]] * 2 + [fixedcorpus.ASKED["sorting"]]
    for number, question in enumerate(asked):
        log.asked(str(number), "t", "g", {"question": question, "answer": "A.", "found": True, "passages": []})
    log.close()
    assert main(["serve", "warm", "run=demo", "tenant=t", "most=1"]) == 0
    assert ": 1 answers in " in capsys.readouterr().out
    assert main(["serve", "warm", "run=demo", "tenant=t"]) == 0
    assert "2 answers in" in (told := capsys.readouterr().out) and "1 of them new" in told
    folder = run.run_dir / FOLDER / warm.FILES
    cache = Cache(CacheConfig(files=str(folder)), secret_of(run.run_dir))
    got = cache.get(Key(kind=Kind.answer, scope=_scope(run), text=asked[0]))
    assert main(["ask", asked[0], "run=demo", "--json"]) == 0
    assert got is not None and got.value == json.loads(capsys.readouterr().out)
    assert cache.get(Key(kind=Kind.answer, scope=_scope(run, tenant="other"), text=asked[0])) is None
    assert main(["serve", "status", "run=demo", "tenant=t"]) == 2


def test_what_changes_answers_changes_the_scope_and_where_a_generator_is_does_not(run: Ledger) -> None:
    def openai(**values: object) -> GeneratorConfig:
        return GeneratorConfig(**{"name": GeneratorName.openai, "base_url": "http://h/v1", "model": "m", **values})

    one = _scope(run, openai())
    assert one == _scope(run, openai(base_url="http://other/v1", api_key_env="KEY", timeout_s=5.0, concurrency=2))
    others = [_scope(run), _scope(run, openai(model="m2")), _scope(run, openai(temperature=0.5))]
    others += [_scope(run, openai(), "u"), _scope(run, openai(), only="lang == 'en'")]
    others.append(_scope(run, openai(compress=CompressConfig(sentences=2))))
    assert len({one, *others}) == 7


def test_the_secret_is_made_once_and_ours_alone(run: Ledger) -> None:
    secret = secret_of(run.run_dir)
    assert secret_of(run.run_dir) == secret and len(secret) == 32
    path = run.run_dir / FOLDER / SECRET
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("abc")
    with pytest.raises(InputError, match="all that was cached is a miss"):
        secret_of(run.run_dir)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        secret_of(run.run_dir)
