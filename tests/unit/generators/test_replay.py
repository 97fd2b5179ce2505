"""A killed attempt's answers are found by the next; what it left unfinished is asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from chatserver import ChatServer
from generators import FISH, SLURM

from rag_hpc.algo.answer.cite import Quote
from rag_hpc.generators.base import Answer
from rag_hpc.generators.replay import Replay

ANSWER = Answer(text="Fish [1] 鱼", citations=[1], found=True, short="Fish", score=0.25, counts={"answer_tokens": 3})
QUOTED = replace(ANSWER, quotes=[Quote(number=1, start=0, end=4, score=0.1 + 0.2)])
SUPPORT = Path(__file__).parents[2] / "support"


def test_the_next_attempt_finds_what_was_answered(tmp_path: Path) -> None:
    with Replay(tmp_path / "carry", {"seed": 0}) as first:
        assert not (tmp_path / "carry").exists()  # made when there is something to keep
        key = first.key("Fish?", [FISH, SLURM])
        assert first.get(key) is None and first.put(key, QUOTED) == QUOTED
    with Replay(tmp_path / "carry", {"seed": 0}) as second:
        assert second.get(key) == QUOTED and second.num_replayed == 1
        others = [second.key("Fish!", [FISH, SLURM]), second.key("Fish?", [SLURM, FISH]), second.key("Fish?", [FISH])]
        assert len({key, *others, Replay(None, {"seed": 1}).key("Fish?", [FISH, SLURM])}) == 5


def test_attempts_write_files_of_their_own(tmp_path: Path) -> None:
    with Replay(tmp_path, {}) as one, Replay(tmp_path, {}) as two, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (one, two)[n % 2].put(f"k{n}", ANSWER), range(40)))
    assert len(list(tmp_path.iterdir())) == 2
    with Replay(tmp_path, {}) as three:
        assert all(three.get(f"k{n}") == ANSWER for n in range(40))
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_a_line_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    with Replay(tmp_path, {}) as one:
        one.put("a", ANSWER)
        one.put("b", ANSWER)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for damaged in (data[:-20], data.replace(b'"b"', b'"c"'), data[: data.index(b"\n") + 1] + b"\xff" * 50):
        path.write_bytes(damaged)
        with Replay(tmp_path, {}) as two:
            assert two.get("a") == ANSWER and two.get("b") is None and two.get("c") is None


def test_without_a_folder_nothing_is_kept() -> None:
    with Replay(None, {}) as replay:
        assert replay.put("a", ANSWER) == ANSWER and replay.get("a") is None


def test_a_killed_process_repeats_no_finished_request(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from generators import FISH\n"
        "from rag_hpc.generators.config import GeneratorConfig, GeneratorName\n"
        "from rag_hpc.generators.openai import OpenAIGenerator\n"
        "from rag_hpc.generators.pool import in_order\n"
        "from rag_hpc.generators.replay import Replay\n"
        "made = OpenAIGenerator(GeneratorConfig(name=GeneratorName.openai, base_url=sys.argv[2], model='m'))\n"
        "def said(question):\n"
        "    key = replay.key(question, [FISH])\n"
        "    return replay.get(key) or replay.put(key, made.generate(question, [FISH]))\n"
        "with Replay(Path(sys.argv[3]), {}) as replay:\n"
        "    print([a.text for a in in_order([f'Water {n}?' for n in range(40)], said, 4, lambda: None)])\n"
    )
    with ChatServer(delay_s=0.05) as server:
        words = [sys.executable, "-c", code, str(SUPPORT), server.url, str(tmp_path / "carry")]
        with subprocess.Popen(words) as first:
            while len(server.bodies) < 16:
                time.sleep(0.01)
            os.kill(first.pid, signal.SIGKILL)
        done = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert done.count("Fish live in water.") == 40
    assert len(set(asked)) == 40 and len(asked) <= 44  # those that were in flight alone were asked twice
