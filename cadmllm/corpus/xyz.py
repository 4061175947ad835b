"""Points as text: a row a point, as .xyz, .txt, .csv, .asc (CloudCompare) and .pts (Leica) files have them.

Columns stand between blanks, tabs, commas or semicolons; a decimal comma is understood where the columns are not between
commas. `#`, `//`, `%` and `;` begin a remark. Before the rows there may be one line of names and one of the count of rows.
Without names the first three columns are x, y and z; columns 4 to 6, else 7 to 9 (behind a colour), are normals if they are
unit vectors; everything else is left out, and said.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cadmllm.corpus.limits import LARGEST_FILE, at_most_points

LONGEST_LINE = 1 << 14  # bytes; a file without line breaks is no table
_REMARKS = (b"#", b"//", b"%", b";")
_AXES = (b"x", b"y", b"z")
_NORMALS = ((b"nx", b"ny", b"nz"), (b"normal_x", b"normal_y", b"normal_z"), (b"normalx", b"normaly", b"normalz"))
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d+([eE][+-]?\d+)?")
_FEW = 4096  # rows by which it is seen whether three columns are normals
_BEFORE = 100  # lines of remarks, names and counts before the rows


@dataclass(slots=True)
class _Layout:
    """How the rows of a text are written."""

    skipped: int  # lines before the rows
    claimed: int | None  # rows, as a line before them says
    names: list[bytes]
    separator: str | None  # None: blanks
    comma: bool  # a decimal comma
    columns: int


def read_text(raw: bytes) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Points [N, 3] float64, their normals [N, 3] or None, and what was left out.

    Raises:
        EOFError: fewer rows than a line before them says.
        TooMany: more points than are read, or a line that claims them.
        ValueError: rows that are no numbers, no text at all.
    """
    if b"\0" in raw[:4096]:
        raise ValueError("it is no text of one byte a letter (a binary file, or UTF-16)")
    layout = _layout(raw)
    at_most_points(layout.claimed or 0)
    last = raw[-LONGEST_LINE:].rpartition(b"\n")[2]
    if last.strip() and not last.lstrip().startswith(_REMARKS) and _width(last, layout) < layout.columns:
        raise EOFError(f"its last line has {_width(last, layout)} of {layout.columns} columns")
    wanted, normals_at = _wanted(layout)
    table = _table(raw, layout, wanted)
    if layout.claimed is not None and len(table) != layout.claimed:
        if len(table) < layout.claimed:
            raise EOFError(f"it ends after {len(table):,} of {layout.claimed:,} points")
        raise ValueError(f"it says that it has {layout.claimed:,} points, and has {len(table):,}")
    places = [normals_at] if normals_at else [tuple(range(k, k + 3)) for k in (3, 6) if k + 3 <= table.shape[1]]
    found = next((list(place) for place in places if _are_unit(table[:, list(place)])), None)
    taken = 3 if found is None else 6
    notes = ()
    if layout.columns > taken:
        what = "columns 1 to 3 are its points" if not layout.names else "x, y and z are its points"
        rest = "no other columns are unit normals" if found is None else f"columns {wanted[found[0]] + 1} and on its normals"
        notes = (f"of {layout.columns} columns {taken} are taken: {what}, {rest}",)
    return table[:, :3], None if found is None else table[:, found], notes


def _layout(raw: bytes) -> _Layout:
    names: list[bytes] = []
    claimed: int | None = None
    for k, line in enumerate(itertools.islice(_lines(raw), _BEFORE)):
        bare = line.strip().lower()
        remark = next((mark for mark in _REMARKS if bare.startswith(mark)), b"")
        words = re.split(rb"[\s,;]+", bare.removeprefix(remark).strip(b" \t,;"))
        if all(axis in words for axis in _AXES):
            names = words
        elif remark or not bare:
            continue
        elif len(words) == 1 and words[0].isdigit() and claimed is None:
            claimed = int(words[0][:18])
        elif _numbers(bare) >= 3:
            return _row(k, claimed, names, bare)
        else:
            shown = line[:60].decode("latin-1").strip()
            raise ValueError(f"line {k + 1} is {shown!r}, which is no row of at least 3 numbers")
    raise ValueError(f"none of its first {_BEFORE} lines is a row of numbers")


def _row(skipped: int, claimed: int | None, names: list[bytes], bare: bytes) -> _Layout:
    """The layout by the first row."""
    separator, comma = _separation(bare)
    layout = _Layout(skipped, claimed, names, separator, comma, 0)
    layout.columns = _width(bare, layout)
    layout.names = names if len(names) == layout.columns else []
    return layout


def _width(line: bytes, layout: _Layout) -> int:
    """Columns of a row; a mark at its end opens none."""
    words = (line.replace(b",", b".") if layout.comma else line).split(layout.separator.encode() if layout.separator else None)
    while words and not words[-1].strip():
        words.pop()
    return len(words)


def _separation(bare: bytes) -> tuple[str | None, bool]:
    """(what stands between columns, whether the comma is the decimal one)."""
    if b";" in bare:
        return ";", b"," in bare
    words = bare.split()
    if b"," in bare:
        comma = len(words) >= 3 and all(_DECIMAL_COMMA.fullmatch(word) or b"," not in word for word in words)
        return (None, True) if comma else (",", False)
    return None, False


def _numbers(bare: bytes) -> int:
    """How many numbers a line is, 0 if it is anything else."""
    separator, comma = _separation(bare)
    words = (bare.replace(b",", b".") if comma else bare).split(separator.encode() if separator else None)
    try:
        return len([float(word) for word in words if word.strip()])
    except ValueError:
        return 0


def _wanted(layout: _Layout) -> tuple[list[int], tuple[int, ...] | None]:
    """Which columns are read, and where among these the named normals are."""
    if layout.names:
        axes = [layout.names.index(axis) for axis in _AXES]
        for triple in _NORMALS:
            if all(name in layout.names for name in triple):
                return axes + [layout.names.index(name) for name in triple], (3, 4, 5)
        return axes, None
    return list(range(3 if layout.columns < 6 else 6 if layout.columns < 9 else 9)), None


def _table(raw: bytes, layout: _Layout, wanted: list[int]) -> np.ndarray:
    at_most_points(raw.count(b"\n") - layout.skipped)
    lines = itertools.islice(_lines(raw), layout.skipped, None)
    if layout.comma:
        lines = (line.replace(b",", b".") for line in lines)
    # a semicolon that begins a remark is known from one between columns by its place
    text = (line.decode("latin-1") for line in lines if not line.lstrip().startswith(_REMARKS))
    return np.loadtxt(text, dtype=np.float64, comments=["#", "//", "%"], delimiter=layout.separator, usecols=wanted, ndmin=2)


def _lines(raw: bytes) -> Iterator[bytes]:
    """Lines, whatever they end with."""
    if b"\n" not in raw[:LARGEST_FILE]:
        raw = raw.replace(b"\r", b"\n")
    for line in io.BytesIO(raw.removeprefix(b"\xef\xbb\xbf")):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"it has a line of {len(line):,} bytes")
        yield line


def _are_unit(vectors: np.ndarray) -> bool:
    """Whether nearly all of some rows have the length 1."""
    few = vectors[:: max(1, len(vectors) // _FEW)]
    with np.errstate(all="ignore"):
        lengths = np.sqrt((few * few).sum(axis=1))
        return bool((np.abs(lengths - 1.0) < 0.05).mean() > 0.9)
