"""Compare the types of a table's columns with the manifest's."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from vace_batch.errors import Fault


def is_whole_numbers(actual: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether floats stand for integers: pandas writes a column of integers with a hole as double."""
    return bool(pa.types.is_floating(actual) and pa.types.is_integer(wanted))


def type_faults(actual: pa.DataType, wanted: pa.DataType, at: str) -> Iterator[Fault]:
    """Find the places where a column of type `actual` cannot be read as `wanted` without loss.

    Accepted beside equal types: narrower or unsigned integers, any number for a float, the large, view and dictionary
    forms of text, any kind of list, structs that lack optional fields, and null.
    """
    actual = actual.value_type if pa.types.is_dictionary(actual) else actual
    if pa.types.is_null(actual) or _same_kind(actual, wanted):
        return
    if pa.types.is_list(wanted) and _is_list(actual):
        yield from type_faults(actual.value_type, wanted.value_type, f"{at}[]")
    elif pa.types.is_struct(wanted) and pa.types.is_struct(actual):
        yield from _struct_faults(actual, wanted, at)
    else:
        yield Fault(at, _shown(actual), _shown(wanted))


def _same_kind(actual: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(actual) or pa.types.is_large_string(actual) or pa.types.is_string_view(actual))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(actual) or pa.types.is_integer(actual))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(actual))
    return bool(actual == wanted and not pa.types.is_nested(actual))


def _is_list(actual: pa.DataType) -> bool:
    kinds = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, kind)(actual) for kind in kinds)


def _struct_faults(actual: pa.DataType, wanted: pa.DataType, at: str) -> Iterator[Fault]:
    parts = {part.name: part for part in wanted}
    seen: set[str] = set()
    for part in actual:
        if part.name in seen:
            yield Fault(f"{at}.{part.name}", "the field twice", "each field once")
        elif part.name not in parts:
            yield Fault(f"{at}.{part.name}", "an unknown field", f"one of {', '.join(parts)}")
        else:
            yield from type_faults(part.type, parts[part.name].type, f"{at}.{part.name}")
        seen.add(part.name)
    for part in wanted:
        if not part.nullable and part.name not in seen:
            yield Fault(f"{at}.{part.name}", "no such field", _shown(part.type))


def _shown(type_: pa.DataType) -> str:
    text = str(type_).replace(" not null", "")
    return text if len(text) <= 60 else text[:57] + "..."
