"""SQuAD's JSON: articles of paragraphs with questions. Format: https://rajpurkar.github.io/SQuAD-explorer."""

from __future__ import annotations

import json
from pathlib import Path

from rag_hpc.errors import InputError
from rag_hpc.stores.questions import Question


def squad_files(path: Path) -> list[Path]:
    """Return the JSON files at `path`, a file or a folder of them, in order of their names."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def load_squad(path: Path) -> tuple[list[Question], dict[str, str]]:
    """Return the answerable questions in file order, and the paragraphs by id, their article's title above the text.

    Raises InputError naming a file that is not of this format.
    """
    questions: list[Question] = []
    texts: dict[str, str] = {}
    for file in squad_files(path):
        try:
            articles = json.loads(file.read_text(encoding="utf-8"))["data"]
            for article in articles:
                for number, paragraph in enumerate(article["paragraphs"]):
                    name = f"{article['title']}#{number}"
                    texts[name] = f"{article['title'].replace('_', ' ')}\n{paragraph['context']}"
                    for asked in paragraph["qas"]:
                        gold = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                        if not asked.get("is_impossible") and gold:
                            question = {"id": asked["id"], "text": asked["question"], "answers": gold}
                            questions.append({**question, "relevant": {name: 1}})
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: not SQuAD's JSON, data[].paragraphs[].qas[] ({type(error).__name__}: {error})"
            ) from error
    return questions, texts
