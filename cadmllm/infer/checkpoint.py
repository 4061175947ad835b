"""Which checkpoint answers, found, verified and loaded; it is always said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.models.exported import is_export, load_exported, read_export
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.stages import MANIFEST, newest_complete_stage, sha256, verify
from cadmllm.models.weights import load_model

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.settings import Settings


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, its folder (None: the bundled base), what to call it, and for an export its kind, type and origin."""

    model: CadMLLM
    folder: Path | None
    name: str
    export: dict[str, Any] | None = None

    def described(self) -> dict[str, Any]:
        """For a record: path, stage, SHA-256 of the manifest (which holds those of all files; None without one), base, export."""
        manifest = self.folder / MANIFEST if self.folder else None
        exported = {} if self.export is None else {"export": self.export}
        return {
            "path": self.name,
            "stage": self.model.stage,
            "sha256": sha256(manifest) if manifest is not None and manifest.is_file() else None,
            "base": self.model.fingerprint,
            **exported,
        }


def find_checkpoint(settings: Settings) -> Path | None:
    """The folder to load: `infer.checkpoint` (or, where that is a run, its newest stage), else the newest stage of `run.dir`."""
    given = settings.infer.checkpoint
    if given is None:
        return newest_complete_stage(settings.run.dir)
    if not (given / MANIFEST).is_file():
        return newest_complete_stage(given) or given
    return given


def load_checkpoint(settings: Settings, console: Console) -> Checkpoint:
    """Load what `find_checkpoint` finds, else the bundled tiny base as a model of stage 1, and say which on standard error.

    Raises:
        CadmllmError: E503, E504 for a checkpoint that is incomplete or of another model; E722, E723 for such an export; E501 to
            E502 from its parts; E612 for an attention back end that does not work here.
    """
    folder = find_checkpoint(settings)
    if folder is not None:
        if is_export(folder):
            return _exported(folder, settings, console)
        verify(folder)
        console.note(f"checkpoint: {folder}")
        model = load_model(folder, settings)
        if settings.model.attention not in ("auto", "sdpa"):  # transformers' own is SDPA
            model.settle_attention()
        return Checkpoint(model, folder, shown(folder))
    console.warn(f"no finished stage in {settings.run.dir}: the bundled tiny base answers, which knows text alone")
    base = settings.model_copy(deep=True)
    base.model.llm, base.model.quantization, base.lora.enabled = "tiny", "none", False
    return Checkpoint(build_model(base, stage=1), None, "tiny-base (bundled)")


def _exported(folder: Path, settings: Settings, console: Console) -> Checkpoint:
    record = read_export(folder)
    kind = f"{record['kind']} in {record['dtype']}"
    console.note(f"checkpoint: {folder} (an export: {kind})")
    model = load_exported(folder, settings)
    if settings.model.attention not in ("auto", "sdpa"):
        model.settle_attention()
    return Checkpoint(
        model, folder, shown(folder), {"kind": record["kind"], "dtype": record["dtype"], "of": record.get("source")}
    )


def shown(path: Path) -> str:
    """A path for a record: below the working folder as it stands there, else its last two parts; never anybody's home."""
    full = path.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else "/".join(full.parts[-2:])
