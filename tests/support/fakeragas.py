"""Stands in for RAGAS where it is not installed: one question to the judge, whose number is the score."""

from __future__ import annotations

from typing import Any

from rag_hpc.generators import judge
from rag_hpc.generators.judge import JudgeConfig, Sample


class FakeRagas:
    """What `load_ragas` returns."""

    def llm(self, fill: Any) -> Any:
        return fill

    def score(self, name: str, one: Sample, llm: Any, embed: Any, strictness: int) -> float:
        import pydantic

        class Number(pydantic.BaseModel):
            value: float

        return float(llm(f"{name}: {one.sample_id} {one.answer} {one.reference}", Number).value)


def number(body: dict[str, Any]) -> str:
    """Judge as a server: no number for q3, one for faithfulness, a quarter for the rest."""
    text = body["messages"][0]["content"]
    return '{"value": %s}' % ("null" if "q3" in text else "1" if "faith" in text else "0.25")


def take_place(put: Any = setattr) -> None:
    """Have judges of this process ask by it. put: sets an attribute, such as monkeypatch.setattr."""
    put(judge, "load_ragas", FakeRagas)
    put(JudgeConfig, "require", lambda self: None)
