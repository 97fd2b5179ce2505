"""Read the documentation out of this interpreter's standard library and write it as a static HTML site.

A program of its own (`python -m rag_hpc.demo.render OUT NUM_HOSTS [SKIPPED_MODULE...]`), because it imports
every module of the library: `rag_hpc.demo.source.render_site` runs it isolated and restarts it without a module that
crashed. It needs nothing but the standard library, so that installed packages cannot change a page.

The bytes depend on the interpreter only: all is sorted, addresses are scrubbed, values of the surroundings left out.
"""

from __future__ import annotations

import enum
import html
import importlib
import inspect
import os
import pkgutil
import re
import signal
import sys
import sysconfig
import types
import warnings
from pathlib import Path
from typing import Any

from rag_hpc.demo.site import Entry, Site, doc_blocks, heading, link, lists, section, text_chars

RENDER_VERSION = 1  # part of the site's name: a change of the output needs a new number
PROGRESS = ".progress"  # name of the module being rendered, for the parent process
MIN_CHARS = 200  # pages with less text are left out
MODULE_LIMIT_S = 5.0

# side effects, or not about programming
SKIPPED = set(
    """
    antigravity this idlelib test tkinter turtle turtledemo lib2to3 __main__ distutils ensurepip pydoc_data venv nt
    msilib
    """.split()
)
LATE = tuple(
    """
    encodings. ctypes.macholib ctypes.wintypes asyncio.unix_events asyncio.proactor_events asyncio.selector_events
    asyncio.staggered multiprocessing.popen_ multiprocessing.dummy multiprocessing.re multiprocessing.util
    importlib.readers importlib.simple importlib.resources. wsgiref. email.headerregistry email.quoprimime xmlrpc.server
    xml.dom.expatbuilder xml.dom.minicompat xml.dom.pulldom xml.dom.xmlbuilder xml.sax.expatreader xml.sax.xmlreader
    """.split()
)
# gone from a newer Python, or hardly read
ELDERLY = set(
    """
    aifc asynchat asyncore audioop cgi cgitb chunk crypt genericpath imghdr imp mailcap nis nntplib nturl2path opcode
    ossaudiodev pipes pyexpat smtpd sndhdr spwd sre_compile sre_constants sre_parse sunau telnetlib uu xdrlib
    """.split()
)
EARLY_TWINS = ("os.path", "json.", "concurrent.", "unittest.", "asyncio.")  # packages that show a class on two pages
TWINS = ("_pyio", "_pydecimal", "_collections_abc")  # private modules with a public twin
# behind the path that robots.txt closes
INTERNAL = tuple(
    """
    _compat_pickle _markupbase _py_abc _sitebuiltins _strptime _threading_local _weakrefset
    """.split()
)
LOWER_CONSTANTS = {"math", "cmath", "string"}
NO_CONSTANTS = {"sys", "site", "sysconfig", "platform", "posix"}  # values of the surroundings


def load_modules(skipped: set[str], out: Path) -> dict[str, types.ModuleType]:
    """Return the importable modules by name; what fails or hangs is left out with a line on stderr."""
    found: dict[str, types.ModuleType] = {}
    waiting = sorted((sys.stdlib_module_names - skipped - SKIPPED), reverse=True)
    while waiting:
        name = waiting.pop()
        if name in skipped or (_is_private(name) and name not in (*TWINS, *INTERNAL)):
            continue
        with _Guard(name, out):
            module = found[name] = importlib.import_module(name)
            inner = (m.name for m in pkgutil.iter_modules(getattr(module, "__path__", [])))
            waiting += [f"{name}.{m}" for m in sorted(inner, reverse=True) if m not in ("__main__", "test", "tests")]
    if "posixpath" in found:
        found["os.path"] = found["posixpath"]
    return found


class _Guard:
    """Context in which a module's code runs: limits its time, turns any of its exceptions into a line on stderr."""

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.progress, self.failed = name, out / PROGRESS, False

    def __enter__(self) -> _Guard:
        self.progress.write_text(self.name, encoding="utf-8")
        signal.signal(signal.SIGALRM, self._expired)
        signal.setitimer(signal.ITIMER_REAL, MODULE_LIMIT_S)
        return self

    def _expired(self, *_: object) -> None:
        raise TimeoutError(f"more than {MODULE_LIMIT_S} s")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.failed = error is not None
        if error is not None and kind is not KeyboardInterrupt:
            sys.stderr.write(f"left out {self.name}: {type(error).__name__}: {error}\n")
        return kind is not KeyboardInterrupt


def collect(modules: dict[str, types.ModuleType], out: Path) -> list[Entry]:
    """Return all entries with their blocks, most important first; twins of an earlier entry carry `same_as`."""
    entries = [Entry(name=n, module=n, obj=m, rank=(_tier(n, 1), n)) for n, m in modules.items()]
    for name, module in modules.items():
        for cls_name in public_names(module):
            cls = getattr(module, cls_name)
            if inspect.isclass(cls) and f"{name}.{cls_name}" not in modules:
                full = f"{name}.{cls_name}"
                entries.append(Entry(name=full, module=name, obj=cls, rank=(_tier(name, 3), full)))
    entries.sort(key=lambda e: (e.rank[0], _is_renamed(e), e.name))
    home: dict[int, str] = {}
    for entry in entries:
        first = home.setdefault(id(entry.obj), entry.name)
        if first != entry.name:
            early = entry.module.startswith(EARLY_TWINS) and entry.rank[0] < 6
            entry.same_as, entry.rank = first, (4 if early else max(entry.rank[0], 5), entry.rank[1])
    for entry in entries:
        with _Guard(entry.module, out) as guard:
            _write_up(entry, home, modules)
        if guard.failed:
            entry.blocks = []
    kept = [e for e in entries if sum(map(text_chars, e.blocks)) >= MIN_CHARS]
    return sorted(kept, key=lambda e: e.rank)


def _is_renamed(entry: Entry) -> bool:
    return entry.name == "os.path" or entry.obj.__name__.rpartition(".")[2] != entry.name.rpartition(".")[2]


def public_names(module: types.ModuleType) -> list[str]:
    """Return the module's own public names, sorted: `__all__`, else what was defined there."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return sorted({str(n) for n in declared if hasattr(module, str(n))})
    own = []
    homes = (None, module.__name__, f"_{module.__name__}")  # bisect's functions say that they live in _bisect
    for name, value in vars(module).items():
        defined = getattr(value, "__module__", None) if inspect.isclass(value) or inspect.isroutine(value) else None
        if not name.startswith("_") and not inspect.ismodule(value) and defined in homes:
            own.append(name)
    return sorted(own)


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _tier(module: str, first: int) -> int:
    if _is_private(module) or module in ELDERLY or module.startswith(LATE):
        return 6
    return first + ("." in module)


def _write_up(entry: Entry, home: dict[int, str], modules: dict[str, types.ModuleType]) -> None:
    shown = entry.same_as or entry.name  # twins say the same, word for word
    if inspect.isclass(entry.obj):
        entry.blocks = _class_blocks(entry.obj, shown, home)
    else:
        entry.blocks = _module_blocks(entry.obj, shown, home, modules)
    doc = _doc(entry.obj)
    entry.summary, entry.closed = _first_sentence(doc), entry.module in INTERNAL
    parent = entry.name.rpartition(".")[0]
    children = [n for n in modules if n.rpartition(".")[0] == entry.name]
    siblings = [n for n in modules if parent and n.rpartition(".")[0] == parent and n != entry.name]
    entry.related = [n for n in (parent, entry.same_as) if n] + sorted(children)[:24] + sorted(siblings)[:8]


def _module_blocks(module: Any, name: str, home: dict[int, str], modules: dict[str, Any]) -> list[str]:
    blocks = [f"<h1>{html.escape(name)}</h1>", *doc_blocks(_doc(module))]
    inner = sorted(n for n in modules if n.rpartition(".")[0] == name and not _is_private(n))
    functions: list[str] = []
    classes: list[str] = []
    bare: list[str] = []  # classes without a docstring
    others: list[str] = []
    constants: list[str] = []
    for item in public_names(module):
        value = getattr(module, item)
        if inspect.isclass(value):
            label, summary = link(home.get(id(value), ""), item), html.escape(_first_sentence(_doc(value)))
            if summary:
                classes.append(f"<p>{label}: {summary}</p>")
            else:
                bare.append(label)
        elif inspect.isroutine(value):
            functions += _member_blocks(value, f"{name}.{item}", item)
        elif isinstance(getattr(value, "__doc__", None), str) and value.__doc__ != type(value).__doc__:
            others += [heading(3, f"{name}.{item}"), *doc_blocks(_doc(value))]
        elif name not in NO_CONSTANTS and (item.isupper() or name in LOWER_CONSTANTS):
            constants += [f"{item} = {html.escape(v)}" for v in [_value(value)] if v != "..."]
    blocks += section("Submodules", lists([link(n, n) for n in inner]))
    blocks += section("Classes", classes + lists(bare))
    blocks += section("Functions", functions)
    blocks += section("Other objects", others)
    return blocks + section("Constants", lists(constants[:100]))


def _class_blocks(cls: Any, name: str, home: dict[int, str]) -> list[str]:
    bases = [link(home.get(id(b), ""), f"{b.__module__}.{b.__qualname__}") for b in cls.__bases__ if b is not object]
    heirs = sorted(home[id(c)] for c in type.__subclasses__(cls) if id(c) in home)[:20] if cls is not object else []
    blocks = [f"<h1>{html.escape(name)}</h1>", f"<p>class {html.escape(signature(cls, name))}</p>"]
    blocks += [f"<p>Based on {', '.join(bases)}.</p>"] if bases else []
    blocks += doc_blocks(_doc(cls))
    methods: list[str] = []
    attributes: list[str] = []
    values: list[str] = []
    for item, value in sorted(vars(cls).items()):
        plain = getattr(value, "__func__", value)
        if item.startswith("_") and item != "__init__":
            continue
        if inspect.isroutine(plain) or inspect.isroutine(value):
            if item != "__init__" or (_doc(plain) and not _doc(plain).startswith("Initialize self.")):
                methods += _member_blocks(plain, item, item)
        elif _doc(value) and _doc(value) != _doc(type(value)):
            attributes += [heading(3, item), *doc_blocks(_doc(value))]
        elif not isinstance(value, cls):
            values += [f"{item} = {html.escape(v)}" for v in [_value(value)] if v != "..."]
    members = getattr(cls, "__members__", {}) if issubclass(cls, enum.Enum) else {}
    blocks += section("Members", lists([f"{k} = {html.escape(_value(m.value))}" for k, m in members.items()]))
    blocks += section("Methods", methods) + section("Attributes", attributes)
    return blocks + section("Values", lists(values)) + section("Known subclasses", lists([link(h, h) for h in heirs]))


def _member_blocks(value: Any, shown: str, item: str) -> list[str]:
    doc = doc_blocks(_doc(value))
    return [heading(3, signature(value, shown), item), *doc]


def signature(obj: Any, name: str) -> str:
    """Return `name(parameters)` without annotations; defaults that are no literals are shown as `...`."""
    try:
        sig = inspect.signature(obj)
    except Exception:  # noqa: BLE001  a __signature__ or __wrapped__ of the library may raise anything
        return f"{name}(...)"
    bare = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else _Shown(_value(p.default)))
        for p in sig.parameters.values()
    ]
    return _scrub(name + str(sig.replace(parameters=bare, return_annotation=sig.empty)))


class _Shown:
    """Stands for a default value in a signature."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _value(value: Any) -> str:
    """Return a literal's source text, or `...` for what is no literal, is long, or names a place of this machine."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if inspect.isclass(value):
        return str(value.__qualname__)
    if isinstance(value, tuple) and type(value) is tuple:
        inner = [_value(v) for v in value]
        text = f"({', '.join(inner)}{',' * (len(inner) == 1)})"
    elif value is None or type(value) in (bool, int, float, complex, str, bytes):
        text = repr(value)
    else:
        return "..."
    places = (sys.prefix, sys.base_prefix, sys.executable)
    if len(text) > 120 or any(p in text for p in places) or value == sysconfig.get_default_scheme():
        return "..."
    return text


def _doc(obj: Any) -> str:
    """Return an object's own docstring, not one inherited from a base class."""
    doc = vars(obj).get("__doc__") if inspect.isclass(obj) else getattr(obj, "__doc__", None)
    return _scrub(inspect.cleandoc(doc)) if isinstance(doc, str) else ""


def _scrub(text: str) -> str:
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def _first_sentence(doc: str) -> str:
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", paragraph)[0][:160]


def main(argv: list[str]) -> int:
    """Return 0 after the site lies in argv[0] for argv[1] hosts; the modules argv[2:] are left out."""
    out, num_hosts, skipped = Path(argv[0]), int(argv[1]), set(argv[2:])
    warnings.simplefilter("ignore")
    library = str(Path(os.__file__).parent)
    sys.path[:] = [p for p in sys.path if p == library or Path(p).name == "lib-dynload"]  # nothing installed
    entries = collect(load_modules(skipped, out), out)
    site = Site(out, num_hosts, entries)
    for entry in entries:
        site.add(entry)
    site.finish()
    (out / PROGRESS).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
