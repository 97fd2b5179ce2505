"""Logging of workers: one line an event, to standard error, appended by the launcher to the job's log."""

from __future__ import annotations

import logging
import os
import sys


def configure(prefix: str = "", level: str | None = None) -> None:
    """Send the package's log to standard error; `prefix` names the worker. Safe to call twice."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(level or os.environ.get("RAG_HPC_LOG", "INFO"))
    for noisy in ("httpx", "urllib3", "trafilatura", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
