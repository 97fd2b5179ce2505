"""Guests of a fleet's gateways, who ask the next one where one is not reached, and what becomes of their requests."""

from __future__ import annotations

import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import gateways
import httpx

from rag_hpc.errors import RagHpcError
from rag_hpc.eval.bench.rows import cpu_class
from rag_hpc.serve.gateway.places import GatewayPlace
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import jobs_of

ASKED = {"messages": [{"role": "user", "content": "Which argument of a deque drops older items?"}]}
ALIKE = 2  # requests in a row that ask the same, so that what gateways share is asked for, too
PAUSE_S = 0.2  # of a guest, after each answer


class Load:
    """Guests that ask one question after another, streamed and not."""

    def __init__(self, places: list[GatewayPlace], run: str, token: str, num_guests: int = 3) -> None:
        self._places, self._run, self._numbers = places, run, itertools.count()
        self._headers, self._over = {"Authorization": f"Bearer {token}"}, threading.Event()
        self.whole = self.streamed = self.cached = 0
        self.failed: list[str] = []  # errors, and answers that are not the model's
        self.cut: list[str] = []  # answers that broke off after they had begun
        self.partial: list[str] = []  # coverage of those that said that shards were missing
        self._threads = [threading.Thread(target=self._guest, args=(number,)) for number in range(num_guests)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def told(self) -> dict[str, Any]:
        """What became of the requests."""
        return {
            "whole": self.whole,
            "streamed": self.streamed,
            "cached": self.cached,
            "failed": len(self.failed),
            "cut_after_first_token": len(self.cut),
            "partial": len(self.partial),
        }

    def _guest(self, number: int) -> None:
        with httpx.Client(timeout=60, headers=self._headers) as client:
            while not self._over.wait(PAUSE_S):
                number += 1
                self._ask(client, number)

    def _ask(self, client: httpx.Client, number: int) -> None:
        first, said = number % len(self._places), ""
        (message,) = ASKED["messages"]
        asked = {**message, "content": f"{message['content']} Case {next(self._numbers) // ALIKE}"}
        body = {"model": self._run, "messages": [asked]}
        for place in self._places[first:] + self._places[:first]:
            try:
                url = f"{gateways.url(place.doors())}/v1/chat/completions"
                self._streamed(client, url, body) if number // 2 % 2 else self._whole(client, url, body)
            except (httpx.TransportError, OSError, RagHpcError) as error:  # it is not there
                said = repr(error)
            else:
                return
        self.failed.append(f"no gateway: {said}")

    def _whole(self, client: httpx.Client, url: str, body: dict[str, Any]) -> None:
        reply = client.post(url, json=body)
        self.whole += 1
        self.cached += "hit" in reply.headers.get("X-Cache", "")
        if reply.status_code != 200:
            self.failed.append(f"{reply.status_code} {reply.text[:200]}")
            return
        self._told(reply.json()["rag"], begun=False)

    def _streamed(self, client: httpx.Client, url: str, body: dict[str, Any]) -> None:
        begun = False
        with client.stream("POST", url, json={**body, "stream": True}) as reply:
            if reply.status_code != 200:
                self.streamed += 1
                self.failed.append(f"{reply.status_code} {reply.read()[:200]!r}")
                return
            try:
                for line in reply.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        self.failed.append(line)
                    elif "rag" in event:
                        self._told(event["rag"], begun=begun)
                    else:
                        begun = True
            except httpx.TransportError as error:
                if not begun:
                    raise
                self.cut.append(repr(error))
        self.streamed += 1

    def _told(self, answer: dict[str, Any], *, begun: bool) -> None:
        if fallback := answer["fallback"]:
            (self.cut if begun and "the answer is cut" in fallback else self.failed).append(fallback)
        elif answer["partial"]:
            self.partial.append(answer["coverage"])


def said(place: Place) -> str:
    """Return the ends of the replicas' logs."""
    logs = sorted(place.folder.glob("*.log"))
    return f"{jobs_of(place)}\n" + "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in logs)


def keep(folder: str, name: str, found: dict[str, Any]) -> None:
    """Print what was measured, and write it into a folder of results where one is named."""
    text = json.dumps({"cpu": cpu_class(), "load_1min": os.getloadavg()[0], **found}, indent=1, sort_keys=True)
    print(f"\n{name}: {text}")
    if Path(folder).is_dir():
        (Path(folder) / f"{name}.json").write_text(text + "\n")
