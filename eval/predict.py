"""`rag-hpc amdahl serial=0.08 p=16,64`: what Amdahl's law allows, before anything is run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, number_between, whole_number
from rag_hpc.eval.laws import amdahl as speedup
from rag_hpc.eval.laws import gustafson, most_workers
from rag_hpc.eval.text import aligned, share

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

PS = "2,4,8,16,32,64"


def amdahl(arguments: Arguments) -> int:
    """Print the limit of S, S and E at each p, and the largest p of an efficiency; exit 1 for a target beyond it."""
    serial = number_between("serial", arguments.override("serial"), 0.0, 1.0)
    efficiency = number_between("efficiency", arguments.override("efficiency") or "0.7", 0.01, 1.0)
    ps = [whole_number("p", word.strip(), 1, least=1) for word in (arguments.override("p") or PS).split(",")]
    given = arguments.override("target")
    target = number_between("target", given, 1.0, math.inf) if given else None
    limit, most = (1 / serial if serial else math.inf), most_workers(serial, efficiency)
    needed = _needed(serial, target) if target else None
    said = _verdict(serial, limit, target, needed) if target else ""
    if "--json" in arguments.flags:
        rows: list[dict[str, Any]] = [
            {"p": p, "speedup": s, "efficiency": s / p, "scaled": gustafson(serial, p)}
            for p, s in [(p, speedup(serial, p)) for p in ps]
        ]
        value = {"serial": serial, "limit": limit if serial else None, "points": rows, "efficiency": efficiency}
        print(as_json({**value, "most_workers": most, "target": target, "needed": needed}))
    else:
        cells = [
            (str(p), f"{speedup(serial, p):.2f}", share(speedup(serial, p) / p), f"{gustafson(serial, p):.2f}")
            for p in ps
        ]
        print(aligned(("p", "S", "E", "S of work that grows with p"), cells))
        print(f"\nlimit of S for any p: {limit:.4g}" if serial else "\nno limit of S")
        print(f"largest p with E >= {efficiency:g}: {most if most is not None else 'any'}")
        print(said, end="\n" if said else "")
    return 1 if target and needed is None else 0


def _needed(serial: float, target: float) -> int | None:
    """Return the fewest workers that reach the target, None where none do."""
    left = 1 / target - serial
    return math.ceil((1 - serial) / left - 1e-9) if left > 0 else None


def _verdict(serial: float, limit: float, target: float, needed: int | None) -> str:
    if needed is not None:
        return f"S = {target:g} needs p = {needed}"
    return (
        f"S = {target:g} is beyond {limit:.4g}, which no number of workers passes: shrink the serial share from "
        f"{serial:g} to below {1 / target:.3g}"
    )
