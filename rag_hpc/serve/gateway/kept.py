"""What is kept of questions, answers and votes where `gateway.log` says so, for `rag-hpc feedback`, `serve warm`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_hpc.errors import RagHpcError
from rag_hpc.serve.feedback import LOG
from rag_hpc.serve.gateway.requests import Feedback
from rag_hpc.serve.gateway.steps import Question
from rag_hpc.serve.log import QueryLog
from rag_hpc.serve.places import FOLDER

log = logging.getLogger(__name__)


class Kept:
    """The query log of a run. An answer is given whether it could be kept or not."""

    def __init__(self, run_dir: Path, generation: str) -> None:
        """generation: of the index."""
        self._log, self._generation = QueryLog(run_dir / FOLDER / LOG), generation

    def answered(self, request_id: str, question: Question, found: dict[str, Any]) -> None:
        """Keep an answer as `ask --json` has it. For a thread: it may write to the disk."""
        source, ms = question.sources.get("answer", "computed"), 1000 * (time.monotonic() - question.begun)
        with _said():
            row = found | {"question": question.text}  # of a chat, with what makes it understood by itself
            self._log.asked(request_id, question.tenant, self._generation, row, source=source, ms=round(ms, 2))

    def voted(self, body: Feedback, tenant: str) -> None:
        """Keep a vote. For a thread."""
        with _said():
            self._log.voted(body.request_id, tenant, body.rating, chunk_id=body.chunk_id, comment=body.comment)

    def close(self) -> None:
        """Write out what has come."""
        with _said():
            self._log.close()

    async def flush(self, every_s: float) -> None:
        """Write out what has come, again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.close)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except (RagHpcError, OSError) as error:
        log.error("a question or a vote could not be kept: %s", error)
