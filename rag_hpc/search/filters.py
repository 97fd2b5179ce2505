"""A filter over passages' columns, such as "lang == 'en' and num_tokens > 50": which passages a search may find.

Columns are those that all passages have, and the fields of their documents that `stage.chunk.fields` names.
Comparisons of a column with a constant (==, !=, <, <=, >, >=, in, not in), joined by and, or, not and brackets. It is
read as Python reads it and never run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import ConfigError
from rag_hpc.stores.chunks import COLUMNS, ChunkStore
from rag_hpc.stores.fields import DATE, NUMBER, date_of

MOST_CHARS = 4096
_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_KINDS = {
    "string": "a text in quotes",
    "int32": "a whole number",
    "int64": "a whole number",
    NUMBER: "a number",
    DATE: "a date in quotes, such as '2024-05-31'",
    None: "a text in quotes or a number",
}
_EXAMPLE = "try filter=\"lang == 'en' and num_tokens > 50\""


def check_filter(text: str, columns: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for what is no filter, or names a column that passages do not have.

    columns: with Arrow's names of their types; None: passages may have others than the usual ones.
    """
    if text:
        _columns(_parsed(text), columns)


def allowed(chunks: ChunkStore, text: str) -> Array:
    """Return for each passage, by ordinal, whether the filter lets it through. Raises ConfigError where none is."""
    node = _parsed(text)
    columns = {name: chunks.arrow(name) for name in sorted(_columns(node, chunks.columns))}
    mask: Array = np.asarray(_evaluated(node, columns), dtype=bool)
    if not mask.any():
        raise ConfigError(f"stage.retrieve.filter={text!r}: no passage is let through; {_EXAMPLE}")
    return mask


def _parsed(text: str) -> ast.expr:
    if len(text) > MOST_CHARS:
        raise ConfigError(f"stage.retrieve.filter: {len(text)} characters, at most {MOST_CHARS}; {_EXAMPLE}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"stage.retrieve.filter={text!r}: cannot be read ({error}); {_EXAMPLE}") from error


def _columns(node: ast.expr, known: Mapping[str, str] | None) -> set[str]:
    """Return the columns that a filter reads. Raises ConfigError for all that is no comparison or joins none."""
    if isinstance(node, ast.BoolOp):
        return {name for part in node.values for name in _columns(part, known)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _columns(node.operand, known)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.left, ast.Name):
        raise ConfigError(f"stage.retrieve.filter: {ast.unparse(node)!r} compares no field with a value; {_EXAMPLE}")
    name = node.left.id
    if known is not None and name not in known:
        raise ConfigError(
            f"stage.retrieve.filter: passages have no field {name!r}; they have {', '.join(known)}. A field of the "
            f"documents becomes one with stage.chunk.fields={{{name}: string}} (or number, or date)"
        )
    many, values = isinstance(node.ops[0], (ast.In, ast.NotIn)), _values(node.comparators[0])
    if type(node.ops[0]) not in _COMPARISONS and not many:
        raise ConfigError(f"stage.retrieve.filter: {ast.unparse(node)!r} is no comparison that it knows; {_EXAMPLE}")
    given = values if isinstance(values, list) else [values]
    kind = (known or COLUMNS).get(name)
    if isinstance(values, list) != many or not all(_fits(value, kind) for value in given):
        raise ConfigError(
            f"stage.retrieve.filter: {ast.unparse(node)!r} must compare {name} with {_KINDS[kind]}, `in` with a list "
            "of such"
        )
    return {name}


def _fits(value: Any, kind: str | None) -> bool:
    """Return whether a column of this type, None of one not known yet, can be compared with the value."""
    if kind == DATE:
        return isinstance(value, str) and date_of(value) is not None
    wanted = {"string": (str,), NUMBER: (int, float), None: (str, int, float)}.get(kind, (int,))
    return type(value) in wanted and (isinstance(value, str) or abs(value) < 2**31 or kind in (NUMBER, None))


def _values(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return list(value) if isinstance(value, (list, tuple, set)) else value


def _evaluated(node: ast.expr, columns: dict[str, Any]) -> Any:
    """Return an Arrow array of booleans; passages whose column is null are not let through by a comparison."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(node, ast.BoolOp):
        join = pc.and_ if isinstance(node.op, ast.And) else pc.or_
        found, *others = (_evaluated(part, columns) for part in node.values)
        for other in others:
            found = join(found, other)
        return found
    if isinstance(node, ast.UnaryOp):
        return pc.invert(_evaluated(node.operand, columns))
    assert isinstance(node, ast.Compare) and isinstance(node.left, ast.Name)
    column, (operator,), values = columns[node.left.id], node.ops, _values(node.comparators[0])
    if pa.types.is_date(column.type):
        values = [date_of(value) for value in values] if isinstance(values, list) else date_of(values)
    if isinstance(operator, (ast.In, ast.NotIn)):
        found = pc.is_in(column, value_set=pa.array(values, column.type))
        found = found if isinstance(operator, ast.In) else pc.invert(found)
    else:
        found = pc.call_function(_COMPARISONS[type(operator)], [column, pa.scalar(values, column.type)])
    return pc.fill_null(found, False)
