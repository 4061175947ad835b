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

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes
ARCHIVE = b"PK\x03\x04"


def array_of(raw: bytes) -> np.ndarray:
    """The array in the bytes of an .npy file, not copied.

    Raises:
        EOFError: it ends before its header says.
        ValueError: it is no array of NumPy's, or of Python objects.
    """
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
    count = math.prod(shape)
    there = len(raw) - begin - length
    if there < count * dtype.itemsize:
        raise EOFError(f"it ends after {there:,} of {count * dtype.itemsize:,} bytes of its array")
    if not count:
        return np.zeros(shape, dtype)
    table: np.ndarray = np.frombuffer(raw, dtype=dtype, count=count, offset=begin + length)
    return table.reshape(shape, order="F" if fortran else "C")


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
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(raw))
        except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError) as error:
            if raw.startswith(ARCHIVE) and b"PK\x05\x06" not in raw[-65_557:]:
                raise EOFError(f"it ends before its table of contents, after {len(raw):,} bytes") from error
            raise ValueError(f"it is not an .npz archive ({error})") from error
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist()]

    def __getitem__(self, name: str) -> np.ndarray:
        """An array. Raises `ValueError` or `EOFError` as `array_of` does, or when the archive is damaged there."""
        info = self._zip.infolist()[self.names.index(name)]
        if info.file_size > self._largest:
            raise ValueError(f"its array {name[:40]!r} unfolds into {info.file_size:,} bytes")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its array {name[:40]!r} is packed in a way that NumPy never packs")
        try:
            content = self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, struct.error) as error:
            # RuntimeError: encrypted
            raise ValueError(f"its array {name[:40]!r} is damaged: {str(error)[:100]}") from error
        return array_of(content)
