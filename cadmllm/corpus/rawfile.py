"""The bytes of a file that others brought, or why there are none: what is asked of every kind of file before its own format.

What is no regular file is never opened for reading (a pipe would make us wait for ever), and nothing else is followed or
touched. A file that is only partly there and one that is a note about a file (a Git LFS pointer, a web page that was saved
in its place) are told from a broken one, because their remedy is another download.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from pathlib import Path

from cadmllm.errors import CadmllmError

AGAIN = "download or copy it again"
ZEROS = 64  # bytes at a file's end that no format of ours ends with: download managers reserve the space beforehand
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error>")
_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/", b"/annex/objects/")
_ARCHIVES = ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"(\xb5/\xfd", "zstd"), (b"BZh", "bzip2"))
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")
_LONGEST_WORD = 9  # characters of the longest word that JSON has (-Infinity): what may stand cut at the end of a file


def read_raw(path: Path, largest: int, unreadable: str, remedy: str) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file.
        largest: bytes it may have.
        unreadable: code for a file that is not there, not permitted or too large.
        remedy: for those.

    Raises:
        CadmllmError: `unreadable`, E420 (pipe, device, folder), E421 (empty), E422 (nothing but zeros), E424 (placeholder).
    """
    try:
        _refuse_irregular(os.stat(path).st_mode, path)
        # without waiting: it may have become a pipe a moment ago
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            _refuse_irregular(status.st_mode, path)
            if status.st_size > largest:
                message = f"{path} has {status.st_size:,} bytes, more than the {largest:,} that are read"
                raise CadmllmError(unreadable, message, remedy)
            raw = file.read(largest)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise CadmllmError(unreadable, f"{path} cannot be read: {reason}", remedy) from error
    if not raw.strip():
        raise CadmllmError("E421", f"{path} is empty", AGAIN)
    if not raw[:ZEROS].strip(b"\0") and not raw.strip(b"\0"):
        raise CadmllmError("E422", f"{path} holds nothing but zeros: its download has not begun or has failed", AGAIN)
    if kind := placeholder(raw):
        raise CadmllmError("E424", f"{path} is {kind}, not the file itself", _fetch(kind))
    return raw


def _refuse_irregular(mode: int, path: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((name for test, name in kinds if test(mode)), "a device")
    raise CadmllmError("E420", f"{path} is {kind}, not a file: it is not opened", "remove it from the data set")


def placeholder(raw: bytes) -> str:
    """What stands in a file's place ('a Git LFS pointer'), '' when it seems to be the file."""
    head = raw[:256].lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
    if any(head.startswith(mark) for mark in _POINTERS):
        return "a git-annex pointer" if head.startswith(b"/annex") else "a Git LFS pointer"
    return "a web page" if any(head.startswith(mark) for mark in _PAGES) else ""


def _fetch(kind: str) -> str:
    if kind == "a web page":
        return "download it again: the server answered with a page (a log-in, a quota, an error) in place of the file"
    return "git annex get ." if "annex" in kind else "git lfs pull"


def ends_in_zeros(raw: bytes) -> bool:
    """Whether the end of a file is a run of zeros, as in one whose download was reserved and has not arrived."""
    return raw.endswith(bytes(ZEROS))


def json_of(raw: bytes, path: Path, broken: str, remedy: str, notes: list[str]) -> object:
    """The JSON value in the bytes of a file.

    Args:
        raw: all of the file.
        path: its name, for messages.
        broken: code for what is no JSON.
        remedy: for that.
        notes: gets a line for each thing that is legible but not as it should be (a name that an object has twice).

    Raises:
        CadmllmError: `broken`, E205 (a number too long to be one), E410 (text that is not Unicode), E422 (it ends too early).
    """
    text = text_of(raw, path, broken, remedy)
    twice: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs) and not twice:
            names = [name for name, _ in pairs]
            twice.append(next(name for name in names if names.count(name) > 1))
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise CadmllmError(broken, f"{path} is nested too deeply", remedy) from error
    except json.JSONDecodeError as error:
        if _ends_early(text, error):
            raise CadmllmError("E422", f"{path} ends in the middle, after {len(raw):,} bytes ({error.msg})", AGAIN) from error
        raise CadmllmError(broken, f"{path} is not valid JSON: {error}", remedy) from error
    except ValueError as error:  # Python reads integers of 4,300 digits at most
        raise CadmllmError("E205", f"{path} holds a number that is too long: {str(error)[:80]}", remedy) from error
    if twice:
        notes.append(f"{path}: an object has the name {ascii(twice[0])[:60]} twice: the last one counts")
    return value


def text_of(raw: bytes, path: Path, broken: str, remedy: str) -> str:
    """The text in the bytes of a file: UTF-8, or UTF-16 and UTF-32 as JSON's readers tell them apart.

    Raises:
        CadmllmError: `broken` when it is no text, E410 when it is text in another encoding, E422 when it ends too early.
    """
    encoding = json.detect_encoding(raw)
    if ends_in_zeros(raw):
        raise CadmllmError("E422", f"{path} ends in zeros: its download has not ended or has failed", AGAIN)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        if name := next((name for mark, name in _ARCHIVES if raw.startswith(mark)), ""):
            raise CadmllmError(broken, f"{path} is a {name} archive, not JSON: unpack it", remedy) from error
        if encoding.startswith("utf-8") and not _CONTROL.search(raw[:4096]):
            if error.end == len(raw) and error.reason == "unexpected end of data":
                raise CadmllmError("E422", f"{path} ends in the middle of a character", AGAIN) from error
            message = f"{path} is not UTF-8: byte {raw[error.start]:#04x} at {error.start:,} (Latin-1 or Windows-1252?)"
            raise CadmllmError("E410", message, "save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW") from error
        raise CadmllmError(broken, f"{path} is not text", remedy) from error


def other_encoding(raw: bytes) -> str:
    """'UTF-16' or 'UTF-32' when JSON bytes are not UTF-8, as they should be; '' when they are."""
    encoding = json.detect_encoding(raw).upper()
    return "" if encoding.startswith("UTF-8") else encoding[:6]


def _ends_early(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a parser stopped because nothing came any more, not because of what came."""
    if error.msg.startswith("Extra data") or not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return False
    end = len(text.rstrip())
    if error.pos >= end or error.msg.startswith("Unterminated string"):
        return True
    return text[end - 1] not in "]}" and end - error.pos <= _LONGEST_WORD
