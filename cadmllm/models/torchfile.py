"""Files of `torch.save` from outside: read as plain tensors, without running code or taking more memory than what is used."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

LARGEST_PICKLE = 2**26  # bytes of a file's table of contents; that of 10,000 tensors is about a MiB
_ZIP = b"PK\x03\x04"
# Lightning files keep such things beside the weights: settings and callbacks, of which nothing is needed here
_HARMLESS = ("omegaconf.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_utilities.")
_PLAIN = {"argparse.Namespace", "typing.Any", "collections.defaultdict"}
_KINDS = ("dict", "list", "tuple", "int", "float", "str", "bool")
_PLAIN |= {f"{home}.{kind}" for home in ("builtins", "__builtin__") for kind in _KINDS}
# torch's readers raise all of these on damaged files
_DAMAGED = (OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError, MemoryError)
_DAMAGED += (AssertionError, ArithmeticError, struct.error)


class NotPlain(Exception):
    """A file that is no plain file of tensors; the text says why."""


class _StandIn:
    """What stands for an object whose class is not imported: it takes what it is given and does nothing with it."""

    def __new__(cls, *_args: object, **_named: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_plain(path: Path) -> object:
    """What a `.pt` or `.ckpt` file holds, on the CPU.

    Tensors of the usual format stay in the file until they are looked at (4 GB of Lightning checkpoint cost what is used of
    it); copy those that should outlive the file. Lightning's own objects beside them are replaced by stand-ins.

    Raises:
        NotPlain: it is broken, cut short, packed, none of PyTorch's, or would run code.
    """
    try:
        zipped = refuse_packed(path)
        with torch.serialization.safe_globals(_stand_ins(path) if zipped else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats are no message of ours: what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise NotPlain(f"it is not a plain file of tensors (loading it would run code{_calls(path)})") from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise NotPlain(f"it is cut short or broken ({error})") from error
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise NotPlain(f"it is broken or not a PyTorch file ({reason})") from error


def refuse_packed(path: Path) -> bool:
    """Whether a file is of torch's usual format, a zip archive; refuse what torch.save does not write and would unfold in memory.

    Raises:
        NotPlain: it is packed, or has a table of contents of 64 MiB.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise NotPlain(f"{entry.filename[:80]} in it is packed, to {entry.file_size:,} bytes; torch.save packs nothing")
            if entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE:
                raise NotPlain(f"{entry.filename[:80]} in it has {entry.file_size:,} bytes, more than {LARGEST_PICKLE:,}")
    return True


def _stand_ins(path: Path) -> list[Callable | tuple[Callable, str]]:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(_StandIn, name) for name in names if name in _PLAIN or name.startswith(_HARMLESS)]


def _calls(path: Path) -> str:
    """What a pickle would call, read without calling it: ': os.system'."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (*_DAMAGED, pickle.UnpicklingError):
        return ""  # the older format: torch names only the first, in its own words
    names = [name for name in names if name not in _PLAIN and not name.startswith(_HARMLESS)]
    return f": {', '.join(names[:3])}" if names else ""
