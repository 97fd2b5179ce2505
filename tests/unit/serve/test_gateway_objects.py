"""Answers by the hash of their bytes: read by their tenant alone, and never changed, so that HTTP caches keep them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from fakegateway import FakeGateway, client_of

from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind
from rag_hpc.serve.cache.files import fill, name_of
from rag_hpc.serve.gateway.caches import value_of
from rag_hpc.serve.gateway.steps import Said


def warmed(gateway: FakeGateway, question: str, tenant: str) -> str:
    """Write the answer to a question for a tenant as `serve warm` does; return its object's name."""
    from rag_hpc.search.answer import checked

    passages = [gateway.asker.passage]
    said = Said(answered=checked(gateway.asker.quoted(question, passages), passages), coverage="4/4", partial=False)
    value = {**value_of("demo", question, said), "of": tenant}
    scope = type(gateway.scope)(**{**vars(gateway.scope), "tenant": tenant})
    digest = Key(kind=Kind.answer, scope=scope, text=question).digest(gateway.secret)
    assert gateway.cache and gateway.cache.config.files
    fill(Path(gateway.cache.config.files), gateway.secret, {digest: (value, time.time() + 60)}, time.time(), tenant)
    return name_of(value)


def test_an_object_is_read_by_its_tenant_with_a_tag_that_holds_for_good(tmp_path: Path) -> None:
    gateway = FakeGateway(tmp_path, cache=CacheConfig(files=str(tmp_path / "files")))
    for name in ("alice", "bob"):
        warmed(gateway, "What?", name)
    hers, his = (warmed(gateway, "What?", name) for name in ("alice", "bob"))
    keys = {name: gateway.granted(name) for name in ("alice", "bob")}
    bearers = {name: {"Authorization": f"Bearer {gateway.tokens.exchange(key)[0]}"} for name, key in keys.items()}
    with client_of(gateway, "elsewhere") as client:
        told = client.post("/v1/query", json={"question": "What?"}, headers=bearers["alice"]).json()
        assert told["cache"] == {"answer": "files"} and told["kept_as"] == f"/v1/objects/{hers}"
        reply = client.get(told["kept_as"], headers=bearers["alice"])
        assert reply.status_code == 200 and hashlib.sha256(reply.content).hexdigest() == hers
        assert json.loads(reply.content)["answer"] == told["answer"]
        assert reply.headers["etag"] == f'"{hers}"' and reply.headers["vary"] == "Authorization"
        assert reply.headers["cache-control"] == "private, max-age=31536000, immutable"
        again = client.get(told["kept_as"], headers=bearers["alice"] | {"If-None-Match": f'W/"{hers}"'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", f'"{hers}"')
        assert client.head(told["kept_as"], headers=bearers["alice"]).status_code == 200
        for path in (f"/v1/objects/{his}", "/v1/objects/x", f"/v1/objects/{'0' * 64}", "/v1/objects/..%2Fnames.json"):
            assert client.get(path, headers=bearers["alice"]).status_code == 404
        assert client.get(f"/v1/objects/{his}", headers=bearers["bob"]).status_code == 200
        assert client.get(told["kept_as"]).status_code == 401


def test_the_owner_reads_all_and_says_who_may_keep_it(tmp_path: Path) -> None:
    gateway = FakeGateway(tmp_path, cache=CacheConfig(files=str(tmp_path / "files")), public=True)
    name = warmed(gateway, "What?", "alice")
    with client_of(gateway) as client:
        reply = client.get(f"/v1/objects/{name}")
        assert reply.headers["cache-control"].startswith("public, ")
        path = next((tmp_path / "files" / "objects").rglob("*.json"))
        path.chmod(0o600)
        path.write_text("{}")
        assert client.get(f"/v1/objects/{name}").status_code == 404  # its bytes are not those of its name
    with client_of(FakeGateway(tmp_path)) as client:
        assert client.get(f"/v1/objects/{name}").status_code == 404  # no files are read
