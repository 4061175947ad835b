"""What Weights & Biases is told, if asked: the guide's names, pictures, one x-axis over stages and resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage
from cadmllm.train.metrics import Metrics, counts, number, read_metrics

if TYPE_CHECKING:
    from cadmllm.console import Console

__all__ = ["Metrics", "Wandb", "read_metrics", "run_name", "wandb_values"]

AXIS = "train/global_step"  # steps over all stages
REACH = 5.0  # s, for the service to answer at all
START = 30.0  # s, for a run to begin
FINISH = 120.0  # s, for what was not sent yet at the end
NAMES = {  # the guide's, and ours behind them
    "train/loss": "loss",
    "train/learning_rate": "lr",
    "train/grad_norm": "grad_norm",
    "train/stage": "stage",
    "train/step": "step",
    "train/epoch": "epoch",
    "train/tokens_per_s": "tokens_per_s",
    "train/samples_per_s": "samples_per_s",
    "train/micro_batches": "micro_batches",
    "gpu/memory_gib": "gpu_memory_gib",
    "gpu/peak_gib": "peak_gib",
    "gpu/reserved_gib": "reserved_gib",
    "gpu/utilisation": "gpu_utilisation",
    "gpu/temperature": "gpu_temperature",
}
GROUPS = {"rates": "rates", "val": "val_loss", "samples": "samples_judged"}  # a value a name inside them


def wandb_values(record: Mapping[str, Any]) -> dict[str, float]:
    """What wandb is told of a record of `metrics.jsonl`: numbers alone, those that are absent or not finite left out.

    Returns:
        The guide's `train/loss`, `train/learning_rate`, `train/grad_norm`, `train/stage`, `train/step`, `train/epoch`;
        `train/...` for speed and shares of waiting and padding (0..1); `gpu/...`; `modalities/<combination>` (share of samples);
        `rates/<part>`; `val/<combination>` and `samples/<what>` on steps that have them.
    """
    values = {name: number(record, key) for name, key in NAMES.items()}
    seconds, computed, supervised = (number(record, key) for key in ("seconds", "computed", "supervised"))
    waited, tokens = number(record, "waited"), number(record, "tokens")
    if seconds:
        values["train/waiting_share"] = None if waited is None else waited / seconds
        values["train/supervised_tokens_per_s"] = None if supervised is None else supervised / seconds
    if computed and tokens is not None:
        values["train/padding_share"] = 1.0 - tokens / computed
    if isinstance(record.get("gpu_throttled"), bool):
        values["gpu/throttled"] = float(record["gpu_throttled"])
    mix = counts(record)
    shown = sum(mix.values())
    values |= {f"modalities/{name}": count / shown for name, count in mix.items() if shown}
    for prefix, key in GROUPS.items():
        group = record.get(key)
        values |= {f"{prefix}/{name}": number(group, name) for name in group} if isinstance(group, dict) else {}
    return {name: value for name, value in values.items() if value is not None}


def run_name(settings: Settings, stage: Stage) -> str:
    """`Qwen3-8B-lora-r32-lr2e-04-bs64-ep1`: model, LoRA, rate, effective batch and epochs of the (first) stage."""
    name = settings.model.llm.rstrip("/").rsplit("/", 1)[-1]
    lora = f"lora-r{settings.lora.r}" if settings.lora.enabled else "full"
    batch = settings.train.batch_size * settings.train.accumulation
    return f"{name}-{lora}-lr{stage.lr:.0e}-bs{batch}-ep{stage.epochs}"


class Wandb:
    """Weights & Biases, if the settings want it. It never stops or hangs a run: the first failure is said and ends it.

    Args:
        settings: `wandb.*`, and all of them as the run's configuration. `WANDB_MODE` of the environment goes before `wandb.mode`.
        stage: the first stage, which names the run.
        console: where its address is said, and troubles.
    """

    def __init__(self, settings: Settings, stage: Stage, console: Console) -> None:
        self._console, self._settings, self._stage = console, settings, stage
        self._run: Any = None
        self._told = 0  # the newest step that the service has already: a resumed run does not tell it twice
        self._wanted = settings.wandb.mode != "off"

    def start(self, step: int = 0, *, anew: bool = False) -> None:
        """Begin the run; later calls do nothing.

        Args:
            step: steps done over all stages (`Metrics.count`): curves go on from there. 0 begins a new run.
            anew: a new run nonetheless, as what this folder had told is overwritten.
        """
        if self._wanted:
            self._wanted = False
            self._guarded("start", lambda: self._start(anew or step == 0))

    def _start(self, anew: bool) -> None:
        mode = self._mode()
        if mode is None:
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        id_ = _run_id(self._settings.run.dir, anew)
        if mode == "online":
            self._run = self._online(id_)
        if self._run is None:  # an attempt that failed keeps its id for as long as this process lives
            self._run = self._init("offline", id_ if mode == "offline" else f"{id_}-offline")
        if self._run is not None:
            self._run.define_metric(AXIS, hidden=True)
            self._run.define_metric("*", step_metric=AXIS)
        if mode == "online" and self._run is not None and not self._run.offline:
            self._told = int(self._run.summary.get(AXIS, 0)) if self._run.resumed else 0
            self._console.note(f"wandb: {self._run.url}")

    def _mode(self) -> Literal["online", "offline"] | None:
        """What the settings and the environment ask for; None for nothing."""
        asked, forced = self._settings.wandb.mode, os.environ.get("WANDB_MODE", "").lower()
        if forced == "disabled":
            self._console.note("wandb: WANDB_MODE=disabled, so nothing is logged")
            return None
        if asked == "offline" or forced in ("offline", "dryrun"):
            why = " (WANDB_MODE)" if asked == "online" else ""
            self._console.note(f"wandb: logged offline{why} in {self._folder}: wandb sync {self._folder}/offline-run-*")
            return "offline"
        return "online"

    def _online(self, id_: str) -> Any:
        """The run at the service; None, said, without a login, or where the service cannot be reached or will not have it."""
        import wandb

        try:
            if wandb.login(prompt=False, verify=False):  # what the service thinks of it, `init` finds out
                _reach(wandb.setup().settings.base_url)
                return self._init("online", id_)
            reason, remedy = "not logged in", "wandb login"
        except (OSError, wandb.Error) as error:
            reason, remedy = _first_line(error), f"later: wandb sync {self._folder}/offline-run-*"
        self._console.warn(f"wandb: {reason}, so this run is logged offline in {self._folder} ({remedy})")
        return None

    def _init(self, mode: Literal["online", "offline"], id_: str) -> Any:
        import wandb

        settings = self._settings
        return wandb.init(
            mode=mode,
            project=settings.wandb.project,
            entity=settings.wandb.entity,
            name=settings.wandb.run_name or run_name(settings, self._stage),
            id=id_,
            resume="allow" if mode == "online" else None,
            dir=str(settings.run.dir),
            config=settings.model_dump(mode="json"),
            settings=wandb.Settings(
                init_timeout=START,
                finish_timeout=FINISH,
                finish_timeout_raises=True,
                console="off" if self._console.err.isatty() else "auto",  # its log would hold every frame of the panel
            ),
        )

    @property
    def _folder(self) -> Path:
        return self._settings.run.dir / "wandb"

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log values under the guide's names (`wandb_values`, 'epoch/stage1_text_loss', ...).

        Args:
            values: by name.
            step: steps over all stages so far (`Metrics.count`): their place on the x-axis.
        """
        self._log(lambda: dict(values), step)

    def pictures(self, paths: Sequence[Path], step: int | None = None, name: str = "samples/pictures") -> None:
        """Log pictures (PNG) under one name, captioned with their file names; those that are not there are left out."""
        paths = [path for path in paths if path.is_file()]

        def values() -> dict[str, Any]:
            import wandb

            return {name: [wandb.Image(str(path), caption=path.stem) for path in paths]}

        if paths:
            self._log(values, step)

    def _log(self, values: Callable[[], dict[str, Any]], step: int | None) -> None:
        # the newest step itself may have got one value more: what was held out after it
        if self._run is not None and (step is None or step >= self._told):
            axis = {} if step is None else {AXIS: step}
            self._guarded("log", lambda: self._run.log(values() | axis))

    def close(self, exit_code: int = 0) -> None:
        """End the run, as failed unless `exit_code` is 0. What the service has not taken within two minutes is left, said."""
        if self._run is not None:
            self._guarded("finish", lambda: self._run.finish(exit_code))
            self._run = None

    def _guarded(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # a service outside this process: whatever it raises must not cost a training run
            self._run = None
            self._console.warn(
                f"wandb could not {what} ({_first_line(error)}): the run goes on without it, metrics.jsonl has everything"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _reach(url: str) -> None:
    """Ask the service for a sign of life, through the proxies of the environment. Raises OSError where none comes."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(url, timeout=REACH).close()
    except urllib.error.HTTPError as error:  # it answered, be it with a refusal
        error.close()
    except urllib.error.URLError as error:
        raise ConnectionError(f"{url} cannot be reached, {error.reason}") from error


def _run_id(run_dir: Path, anew: bool) -> str:
    """The id of this folder's wandb run, so that a resumed run continues its curves."""
    import secrets

    path = run_dir / "wandb-id"
    known = path.read_text(encoding="utf-8").strip() if path.is_file() and not anew else ""
    if not known:
        known = secrets.token_hex(6)
        path.write_text(known + "\n", encoding="utf-8")
    return known
