"""What every benchmark shares: rows and their verdicts, turns and intervals, options and missing peers."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from rag_hpc import cli
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.eval.bench import pairs, registry
from rag_hpc.eval.bench.crawl import crawl
from rag_hpc.eval.bench.crawl.webserver import Web, WebOptions
from rag_hpc.eval.bench.rows import Row, as_json, as_text


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row(name="x", ours=9, unit="s"), None),
        (Row(name="x", ours=5, unit="s", bar=5), True),
        (Row(name="x", ours=9, unit="s", ratio=4.9, bar=5), False),
        (Row(name="x", ours=9, unit="s", ratio=5.2, interval=(4.9, 5.5), bar=5), False),
        (Row(name="x", ours=9, unit="s", ratio=5.2, interval=(5.0, 5.5), bar=5), True),
        (Row(name="x", ours=0, unit="s", bar=0, less_is_better=True), True),
        (Row(name="x", ours=1, unit="s", bar=0, less_is_better=True), False),
        (Row(name="x", ours=1, unit="s", ratio=0.9, interval=(0.8, 1.1), bar=1, less_is_better=True), False),
    ],
)
def test_a_bar_is_met_by_the_worse_end_of_the_interval(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert row.plain()["met"] is met


def test_rows_are_shown_with_the_peers_the_ratio_and_the_verdict() -> None:
    row = Row(
        name="crawl.cost",
        ours=1234.5,
        unit="pages/s",
        peers={"scrapy": 200.0},
        ratio=6.1725,
        interval=(5.9, 6.4),
        bar=5,
        note="a note",
    )
    assert as_text([row]) == (
        "crawl.cost: 1,234 pages/s; against scrapy 200; ratio 6.17 [5.9, 6.4]; bar >= 5: met; a note"
    )
    (plain,) = json.loads(as_json([row]))
    assert {"name", "ours", "unit", "peers", "ratio", "interval", "bar", "met", "contention"} <= set(plain)


def test_the_ratio_of_equal_sides_is_one_without_doubt() -> None:
    assert pairs.ratio_of_medians([3.0] * 7, [3.0] * 7) == (1.0, (1.0, 1.0))


def test_the_interval_holds_the_true_ratio_about_19_times_of_20() -> None:
    rng, held = random.Random(5), 0
    for _ in range(60):
        peer = [rng.lognormvariate(0, 0.1) for _ in range(15)]
        ours = [2 * rng.lognormvariate(0, 0.1) for _ in range(15)]
        _, (low, high) = pairs.ratio_of_medians(ours, peer)
        held += low <= 2 <= high
    assert held >= 51


def test_pairs_are_resampled_together_so_a_slow_round_hurts_neither() -> None:
    slow = [1.0, 1.1, 0.4, 1.0, 0.9, 0.3, 1.05]
    ratio, interval = pairs.ratio_of_medians([3 * value for value in slow], slow)
    assert (ratio, *interval) == pytest.approx((3.0, 3.0, 3.0))


@pytest.mark.parametrize(("ours", "peer"), [([], []), ([1.0], [1.0, 2.0])])
def test_sides_of_unequal_length_are_refused(ours: list[float], peer: list[float]) -> None:
    with pytest.raises(ConfigError, match="equal length"):
        pairs.ratio_of_medians(ours, peer)


def test_sides_take_turns_in_changing_order_and_keep_their_rounds() -> None:
    order: list[str] = []

    def side(name: str, factor: float) -> float:
        order.append(name)
        return factor * ((len(order) + 1) // 2)  # both sides of round n give n times their factor

    timed = pairs.take_turns(
        {
            "ours": lambda: side("ours", 4),
            "a": lambda: side("a", 2),
        },
        8,
    )
    rounds = [tuple(order[i : i + 2]) for i in range(0, 16, 2)]
    assert set(rounds) == {("ours", "a"), ("a", "ours")}
    assert timed.values == {"ours": [4.0 * n for n in range(1, 9)], "a": [2.0 * n for n in range(1, 9)]}
    assert timed.median("a") == statistics.median(timed.values["a"])
    assert timed.ratio("a")[0] == 2.0


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 7"):
        pairs.take_turns({"ours": lambda: 1.0}, 6)


def test_options_stand_over_defaults_and_unknown_ones_list_the_known() -> None:
    assert registry.known({"b": "3"}, {"a": "1", "b": "2"}) == {"a": "1", "b": "3"}
    with pytest.raises(ConfigError, match=r"no option 'c' here; known: a=1, b=2"):
        registry.known({"c": "3"}, {"a": "1", "b": "2"})


def test_a_missing_peer_is_named_with_its_remedy() -> None:
    registry.peer("json", "json")
    with pytest.raises(MissingDependency, match=r"needs Nobody.*rag-hpc\[bench\]"):
        registry.peer("nobody_has_this", "Nobody")


@pytest.mark.parametrize("words", [[], ["nope"], ["crawl", "extract"]])
def test_a_benchmark_that_does_not_exist_lists_those_that_do(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *words]) == 2
    assert (
        "bench takes crawl|extract|dedup|chunk|checks|rank|encode|rerank|answers|train|vectors|dedup_scale, not"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([Row(name="x", ours=1, unit="s", bar=2)], 1),
        ([Row(name="x", ours=3, unit="s", bar=2)], 0),
        ([Row(name="x", ours=3, unit="s")], 0),
    ],
)
def test_the_exit_code_says_whether_a_bar_was_missed(
    rows: list[Row], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(crawl, "run", lambda options: asked.append(options) or rows)
    assert cli.main(["bench", "crawl", "hosts=3", "--json"]) == code
    assert asked == [{"hosts": "3"}]
    assert json.loads(capsys.readouterr().out)[0]["name"] == "x"


def test_the_bound_is_the_longest_of_the_hosts_schedules() -> None:
    arrivals = [(float(n), host, f"/{n}") for n, host in enumerate("aabababaa")]
    assert crawl.bound(arrivals, 2.0) == 5 * 2.0


@pytest.mark.parametrize(
    ("pages", "paths"),
    [(2, ["/"]), (1, ["/", "/docs/section-1/page-1.html"]), (2, ["/", "/", "/docs/section-1/page-1.html"])],
)
def test_a_crawl_that_misses_a_page_or_asks_twice_is_no_measurement(pages: int, paths: list[str]) -> None:
    served = WebOptions(hosts=1, pages_per_host=2)
    web = Web(port=1, arrivals=[(float(n), "h000.web.test", path) for n, path in enumerate(["/robots.txt", *paths])])
    with pytest.raises(InputError, match=rf"2 pages are served, the crawl kept {pages}"):
        crawl.checked(served, web, crawl.Crawled(pages=pages, cpu_s=1.0, arrivals=web.arrivals))


def test_the_crawl_benchmark_names_its_parts() -> None:
    with pytest.raises(ConfigError, match="cost, schedule, scaling"):
        crawl.run({"parts": "speed"})


@pytest.mark.parametrize(
    ("option", "needed"),
    [
        ({"pairs": "many"}, "pairs=many: a whole number, at least 1 is needed, such as pairs=7"),
        ({"pairs": "0"}, "pairs=0: a whole number"),
        ({"latency": "fast"}, "latency=fast: a number is needed, such as latency=0.05"),
        ({"peers": "yes"}, "peers=yes: true or false is needed"),
    ],
)
def test_an_option_s_value_must_be_of_its_kind(option: dict[str, str], needed: str) -> None:
    defaults = {"pairs": "7", "latency": "0.05", "peers": "true", "data": ""}
    assert registry.known({"latency": "1", "data": "x"}, defaults) == defaults | {"latency": "1", "data": "x"}
    with pytest.raises(ConfigError, match=needed):
        registry.known(option, defaults)
