"""The fingerprint of a run that went well, kept with it: what to look at first when the next one does not.

`of` gathers facts in milliseconds, without torch: versions, driver and card, model and encoders (by what their files hold, in
samples), the data, the settings that change numbers. `keep` writes them beside the stages and into the user's cache folder;
`differences` says in words what is other now. No host name, no user name, no folder: a run folder may be published as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError
from cadmllm.models.frozen import encoder_files, encoder_name, why_trained
from cadmllm.places import bundled
from cadmllm.plan.sizes import cached
from cadmllm.train.environment import host

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

NAME = "fingerprint.json"  # in the run folder
LAST_GOOD = "last-good.json"  # in the user's cache folder
KEPT = 20  # entries of a run folder; the oldest go
SCHEMA = 1
WHERE_MODEL_KEYS = ("points_checkpoint", "embedding_device")  # say where something lies, not what it computes
VALIDATION_KEYS = {"val_steps", "val_samples"}  # free unless they decide when a stage ends
FREE_TRAIN_KEYS = {"logging_steps", "save_steps", "save_total_limit", "judge_samples", "sample_steps", "samples"}
FREE_TRAIN_KEYS |= {"workers", "prefetch", "distributed"}
CARD = ("name", "driver", "compute_capability")
GROUPS = ("versions", "card", "model", "encoders", "data", "settings", "system")  # in the order in which changes are told
_FREE = {*(f"model.{key}" for key in WHERE_MODEL_KEYS), *(f"train.{key}" for key in FREE_TRAIN_KEYS), "data.index"}
_HEAD, _BLOCK, _BLOCKS = 2**18, 4096, 16  # bytes at a file's beginning and end, and of blocks spread over it, that are hashed


@dataclass(frozen=True, slots=True)
class Entry:
    """A run that went well.

    Attributes:
        time: its end.
        stages: that were trained.
        facts: as `of` gave them.
    """

    time: datetime
    stages: tuple[int, ...]
    facts: dict[str, Any]

    def name(self) -> str:
        """'2026-11-22 18:31 (stage 2)', in local time."""
        numbers = " and ".join(map(str, self.stages)) if len(self.stages) < 3 else "1 to 3"
        return f"{self.time.astimezone():%Y-%m-%d %H:%M} (stage{'s' if len(self.stages) > 1 else ''} {numbers})"


def of(settings: Settings, dataset: DataSet | None, *, card: Mapping[str, Any] | None) -> dict[str, Any]:
    """The facts of a run: group -> name -> value.

    Args:
        settings: all of them.
        dataset: opened; None where it cannot be: the group 'data' is then missing.
        card: 'name', 'driver' and 'compute_capability' of the GPU (`environment.device_facts`); None or without them: a CPU.
    """
    about = host()
    packages, cpu = about.pop("packages"), about.pop("cpu")
    versions = {name: about.pop(name) for name in ("cadmllm", "commit", "python")} | packages
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": versions,
        "system": {**about, "processor": cpu["name"], "cores": cpu["cores"]},
        "card": {key: (card or {})[key] for key in CARD if (card or {}).get(key) is not None},
        "model": _model(settings.model.llm),
        "encoders": _encoders(settings),
        "settings": numbers(settings),
    }
    if dataset is not None:
        train, val = dataset.split()
        facts["data"] = {"content": dataset.fingerprint()[:16], "ids": len(dataset), **dataset.counts}
        facts["data"] |= {"training ids": len(train), "held-out ids": len(val)}
    return facts


def numbers(settings: Settings) -> dict[str, Any]:
    """Dotted key -> value of every setting that changes the numbers of a run. Of paths the last part alone, no secrets."""
    dumped = settings.model_dump(by_alias=True, include={"model", "lora", "data", "train", "stages", "dtype", "device"})
    flat = {key: value for key, value in _flat(dumped) if key not in _FREE}
    if settings.data.synthetic:  # made in a temporary folder
        flat = {key: value for key, value in flat.items() if not key.startswith("data.") or key == "data.synthetic"}
    return flat


def keep(settings: Settings, facts: Mapping[str, Any], stages: Sequence[int]) -> Path:
    """Add the facts of a run that went well to `run.dir/fingerprint.json`, and make them the user's last good ones.

    Args:
        settings: of the run.
        facts: from `of`.
        stages: that were trained.

    Raises:
        CadmllmError: E607 when the run folder cannot be written. A cache folder that cannot be is no error.
    """
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "stages": list(stages), "facts": dict(facts)}
    path = settings.run.dir / NAME
    good = [*_raw(path), entry][-KEPT:]
    try:
        _write(path, {"schema": SCHEMA, "good": good})
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise CadmllmError("E607", message, "allow writing to the run folder, or free some space there") from error
    with contextlib.suppress(OSError):  # no place to remember across runs: the run folder has it
        _write(last_good_path(), {"schema": SCHEMA, "good": [entry]})
    return path


def last_good_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`~/.cache/cadmllm/last-good.json`, or under XDG_CACHE_HOME."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cadmllm" / LAST_GOOD


def newest(path: Path) -> Entry | None:
    """The newest entry of a file that `keep` wrote; None where there is none that can be read."""
    for entry in reversed(_raw(path)):
        try:
            time = datetime.fromisoformat(entry["time"])
            return Entry(time, tuple(int(number) for number in entry["stages"]), dict(entry["facts"]))
        except (KeyError, TypeError, ValueError):
            continue
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is other, in words, what matters most first: 'torch 2.12.0 -> 2.13.0', 'data: 12 ids more'.

    A group that one of the two does not have is not compared.
    """
    found = []
    for group in GROUPS:
        old, new = before.get(group), now.get(group)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            found += _data(old, new) if group == "data" else list(_changes(group, old, new))
    return found


def _changes(group: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    prefix = {"versions": "", "settings": "", "card": "", "model": "model ", "encoders": "", "system": ""}[group]
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            name = {"name": "GPU", "compute_capability": "compute capability"}.get(key, key) if group == "card" else key
            yield f"{prefix}{name} {_said(key, old.get(key))} -> {_said(key, new.get(key))}"


def _said(key: str, value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:10] + ("+" if text.endswith("+") else "") if key == "commit" else text


def _data(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for key in (*new, *(key for key in old if key not in new)):
        was, now = old.get(key), new.get(key)
        if was != now and isinstance(was, int) and isinstance(now, int):
            found.append(f"{abs(now - was):,} {key} {'more' if now > was else 'fewer'}")
    return [f"data: {', '.join(found)}" if found else "data: as many ids, others than these or with other programs"]


def _model(llm: str) -> dict[str, Any]:
    """What the base model's files are like; its name alone where they are not on this machine."""
    folder = _folder(llm)
    found: dict[str, Any] = {"name": _public(llm)}
    if folder is None:
        return found
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            found[name.partition(".")[0]] = _digest([folder / name])
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if weights:
        found |= {"weights": _digest(weights), "bytes": sum(path.stat().st_size for path in weights)}
    return found


def _folder(llm: str) -> Path | None:
    if llm == "tiny":
        return bundled("checkpoints") / "tiny-base"
    path = Path(llm).expanduser()
    return path if path.is_dir() else cached(llm)


def _encoders(settings: Settings) -> dict[str, Any]:
    """By branch: what its frozen encoder's files are like, or of cached features the index that pins them."""
    found: dict[str, Any] = {}
    for part in ("points", "images"):
        store = settings.data.features / part / "index.safetensors" if settings.data.features else None
        if store is not None and store.is_file():
            found[f"features of {part}"] = _digest([store])
        elif not why_trained(settings, part):
            files = encoder_files(settings, part)
            source = encoder_name(settings, part)[1]
            name = Path(source).name if part == "points" else _public(source)
            found[f"encoder of {part}"] = f"{name} {_digest(files)}" if files else name
    return found


def _digest(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits of files: names, sizes, beginning (the header), end, and blocks spread over each.

    A gigabyte is told from another in a millisecond; two that differ in a few bytes between the blocks are not.
    """
    found = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogatepass"))
        with path.open("rb") as file:
            found.update(file.read(_HEAD))
            for k in range(1, _BLOCKS + 1):
                place = size * k // _BLOCKS - _BLOCK
                if place > _HEAD:
                    file.seek(place)
                    found.update(file.read(_BLOCK))
    return found.hexdigest()[:16]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value.name if isinstance(value, Path) else _public(value)


def _public(value: Any) -> Any:
    """A hub name as it is; of a folder its last part alone (the rest is nobody's business)."""
    if isinstance(value, str) and (os.path.isabs(os.path.expanduser(value)) or value.startswith(".")):
        return Path(value).name
    return value


def _raw(path: Path) -> list[dict[str, Any]]:
    """The entries of a file; what is no such file has none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    good = found.get("good") if isinstance(found, dict) and found.get("schema") == SCHEMA else None
    return [entry for entry in good if isinstance(entry, dict)] if isinstance(good, list) else []


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Written aside and renamed: it is whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".good-", delete=False, encoding="utf-8") as file:
        aside = Path(file.name)
        try:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
