"""Guests of a fleet's replicas, as a gateway is one: what is refused is asked again, of the next."""

from __future__ import annotations

import threading
import time

import httpx

from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import Roll, jobs_of, token_of

ASKED = {"model": "model", "messages": [{"role": "user", "content": "1"}]}


class Load:
    """Guests that ask one request after another: of a replica that is ready, and of the next where one refuses."""

    def __init__(self, place: Place, num_guests: int = 2) -> None:
        self._place, self._over = place, threading.Event()
        self.answered: list[str] = []  # by which address
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_guests)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        roll, headers = Roll(self._place), {"Authorization": f"Bearer {token_of(self._place)}"}
        with httpx.Client(timeout=20, headers=headers) as client:
            while not self._over.is_set():
                said = ""
                for one in (one for one in roll.live() if one.state == "ready"):
                    try:
                        reply = client.post(f"http://{one.address}/v1/chat/completions", json=ASKED)
                    except httpx.HTTPError as error:
                        said = repr(error)
                        continue
                    if reply.status_code == 200 and reply.json()["choices"]:
                        self.answered.append(one.address)
                        break
                    said = f"{reply.status_code} {reply.text}"
                else:
                    self.failed.append(said or "no replica is ready")
                time.sleep(0.05)


def said(place: Place) -> str:
    logs = sorted(place.folder.glob("*.log"))
    return f"{jobs_of(place)}\n" + "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in logs)
