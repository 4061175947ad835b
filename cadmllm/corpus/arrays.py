"""Arrays in NumPy's own files, read from bytes: what a header promises is compared with what is there, nothing is unpickled.

`numpy.load` would do, but tells a file that is cut short, a foreign one and a pickled one apart by the wording of one
ValueError, and believes an archive that says it unfolds into a terabyte.
"""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib

import numpy as np

from cadmllm.corpus.limits import MOST_ENTRIES, at_most_points

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes
ARCHIVE = b"PK\x03\x04"
_ENTRY = b"PK\x01\x02"  # begins each line of an archive's table of contents


def array_of(raw: bytes) -> np.ndarray:
    """The array in the bytes of an .npy file, not copied.

    Raises:
        EOFError: it ends before its header says.
        TooMany: it has, or claims, more rows than points are read.
        ValueError: it is no array of NumPy's, or of Python objects.
    """
    dtype, shape, fortran, begin = _opening(raw)
    count = math.prod(shape)
    there = len(raw) - begin
    if there < count * dtype.itemsize:
        raise EOFError(f"it ends after {there:,} of {count * dtype.itemsize:,} bytes of its array")
    if not count:
        return np.zeros(shape, dtype)
    table: np.ndarray = np.frombuffer(raw, dtype=dtype, count=count, offset=begin)
    return table.reshape(shape, order="F" if fortran else "C")


def _opening(raw: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Type, shape and order of an array, and where its numbers begin."""
    if not raw.startswith(MAGIC):
        if MAGIC.startswith(raw[: len(MAGIC)]):
            raise EOFError("it ends within its header")
        raise ValueError("it is not an array of numbers in NumPy's format (pickled data is never loaded)")
    width = 2 if raw[6:7] == b"\x01" else 4
    begin = 8 + width
    if len(raw) < begin:
        raise EOFError("it ends within its header")
    length = struct.unpack_from("<H" if width == 2 else "<I", raw, 8)[0]
    if length > LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes")
    if len(raw) < begin + length:
        raise EOFError("it ends within its header")
    dtype, shape, fortran = _header(raw[begin : begin + length])
    at_most_points(shape[0] if shape else 0)
    return dtype, shape, fortran, begin + length


def _header(text: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    try:
        head = ast.literal_eval(text.decode("latin-1").strip())
        shape = tuple(head["shape"])
        dtype = np.lib.format.descr_to_dtype(head["descr"])
        fortran = bool(head["fortran_order"])
    except (SyntaxError, TypeError, KeyError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("its header is broken") from error
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"its array has the shape {list(shape)}")
    if dtype.hasobject:
        raise ValueError("it is not an array of numbers in NumPy's format (pickled data is never loaded)")
    if dtype.itemsize == 0:
        raise ValueError(f"its array holds {dtype}, not numbers")
    return dtype, shape, fortran


class Archive:
    """The arrays of an .npz file by name.

    Args:
        raw: all its bytes.
        largest: bytes that one array may unfold into.

    Raises:
        EOFError: it ends before its table of contents.
        ValueError: it is no archive.
    """

    def __init__(self, raw: bytes, largest: int) -> None:
        self._largest = largest
        self._zip = open_archive(raw, "an .npz archive")
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist()]

    def __getitem__(self, name: str) -> np.ndarray:
        """An array. Raises `ValueError` or `EOFError` as `array_of` does, or when the archive is damaged there."""
        info = self._zip.infolist()[self.names.index(name)]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its array {name[:40]!r} is packed in a way that NumPy never packs")
        try:
            with self._zip.open(info) as file:
                head = file.read(LONGEST_HEADER)
                if len(head) < info.file_size:
                    _opening(head)  # what it claims, before it unfolds
                if info.file_size > self._largest:
                    raise ValueError(f"it unfolds into {info.file_size:,} bytes")
                # one byte more than is said, so that the check sum at its end is looked at
                content = head + file.read(max(0, info.file_size - len(head)) + 1)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, struct.error) as error:
            # RuntimeError: encrypted
            raise ValueError(f"its array {name[:40]!r} is damaged: {str(error)[:100]}") from error
        return array_of(content)


def open_archive(raw: bytes, what: str) -> zipfile.ZipFile:
    """A zip archive in memory.

    Args:
        raw: all its bytes.
        what: it should be, for messages.

    Raises:
        EOFError: it ends before its table of contents.
        ValueError: it is no archive, or one of more files than are looked at.
    """
    if (entries := raw.count(_ENTRY)) > MOST_ENTRIES:
        raise ValueError(f"it is an archive of {entries:,} files")
    try:
        return zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError, ValueError) as error:
        if raw.startswith(ARCHIVE) and b"PK\x05\x06" not in raw[-65_557:]:
            raise EOFError(f"it ends before its table of contents, after {len(raw):,} bytes") from error
        raise ValueError(f"it is not {what} ({error})") from error
