"""What the records of a stage's steps give away: spikes, slow-downs, a loss that does not fall, text that is forgotten.

Everything follows from the records alone, so that a resumed run notices what an undisturbed one would have noticed.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.places import under_wsl
from cadmllm.settings import Settings
from cadmllm.train import remedies

if TYPE_CHECKING:
    from cadmllm.train.curriculum import Stage

RECENT = 64  # steps that "usual" is taken from: long enough for a steady median, short enough to follow a falling loss
ENOUGH = 20  # steps before anything is usual; the first ones, where a stage's loss jumps and kernels are compiled, never count
SPIKE_DEVIATIONS = 6.0  # robust standard deviations (1.4826 x median absolute deviation) above the median: one step in 1e9
SPIKE_SHARE = 1.3  # and at least so many times the median: a loss that hardly varies has hardly a deviation
SPIKE_RISE = 0.05  # and at least so many nats: near zero everything is a multiple
SLOW_SHARE = 1 / 3  # of the usual speed; lengths and mixes of samples move it by less, a spill into RAM by 10
SLOW_STEPS = 5  # in a row: a save or a validation takes one
SLOW_IS_USUAL = 200  # slow steps in a row after which they are the usual (the run went on on another machine)
HOT = 85  # degrees C
TEXT_RISE = 0.05  # of the held-out loss of text alone: the same samples each time, so noise is far smaller
TEXT_NATS = 0.02
SETTLING_LEAST = 10  # steps of a stage's start, where a jump is expected: these, or the warm-up if it is longer,
SETTLING = 0.2  # but at most this share of the stage
WINDOW_SHARE, WINDOW_LEAST = 0.05, 10  # share of a stage's steps that beginning and present are each taken over (50 at most)
WINDOW_MOST = 50
JUDGED_SHARE, JUDGED_LEAST = 0.25, 20  # share of a stage, and steps, between its beginning and the first verdict
AGAIN = 200  # steps before the same thing is said again
WORSE = 1.5  # times as bad as said last: said at once


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that deserves a look: its kind ('spike', 'slow', 'not falling', 'forgetting'), what is so, what to do."""

    kind: str
    message: str
    remedy: str


class Vigil:
    """Watches one stage.

    Args:
        settings: of the run.
        stage: which is trained.
        wsl: whether this Linux runs inside WSL; None asks the kernel.
    """

    def __init__(self, settings: Settings, stage: Stage, wsl: bool | None = None) -> None:
        self._settings, self._stage = settings, stage.number
        self._wsl = under_wsl() if wsl is None else wsl
        self._moves = bool(settings.stages[stage.number].probabilities_end)
        self._losses: list[float] = []
        self._begin: list[float] = []
        self._speeds: list[float] = []
        self._slow = [0.0, 0.0, 0.0, 0.0]  # slow steps in a row: their number, computed tokens, seconds, seconds of waiting
        self._spikes = 0  # since the last that was said
        self._total = 0
        self._text: list[float] | None = None  # step and loss of the first validation
        self._held: list[float] | None = None  # held-out loss of all, the first after the beginning and the last
        self._said: dict[str, list[float]] = {}  # step and severity

    def step(self, record: Mapping[str, Any]) -> list[Notice]:
        """What the record of a step (a line of metrics.jsonl) gives away."""
        self._total = record["total_steps"]
        found = [self._spike(record), self._slower(record), self._falls(record)]
        return [notice for notice in found if notice is not None]

    def validated(self, step: int, val_loss: Mapping[str, float]) -> list[Notice]:
        """What a validation gives away.

        Args:
            step: after which it was made; 0: before the stage's first, the measure of text-only ability.
            val_loss: by combination, and of 'all'.
        """
        notices = []
        if "all" in val_loss and self._total and step > self._settled:
            self._held = [self._held[0] if self._held else val_loss["all"], val_loss["all"]]
            if self._moves and self._stage > 1 and step >= self._judged and self._held[1] >= self._held[0]:
                notices.append(self._not_falling(step, *self._held, "the held-out loss"))
        if "text" in val_loss and self._stage > 1:
            notices.append(self._forgets(step, val_loss["text"]))
        return [notice for notice in notices if notice is not None]

    def state(self) -> dict[str, Any]:
        """What `load` takes; plain JSON data."""
        held = {
            "losses": self._losses,
            "begin": self._begin,
            "speeds": self._speeds,
            "slow": self._slow,
            "spikes": self._spikes,
            "total": self._total,
            "text": self._text,
            "held": self._held,
            "said": self._said,
        }
        return copy.deepcopy(held)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        held = copy.deepcopy(dict(state))
        self._losses, self._begin, self._speeds = held["losses"], held["begin"], held["speeds"]
        self._slow, self._spikes, self._total = held["slow"], held["spikes"], held["total"]
        self._text, self._held, self._said = held["text"], held["held"], held["said"]

    def _is_news(self, kind: str, step: int, severity: float) -> bool:
        last = self._said.get(kind)
        if last is not None and step - last[0] < AGAIN and severity < WORSE * last[1]:
            return False
        self._said[kind] = [step, severity]
        return True

    def _spike(self, record: Mapping[str, Any]) -> Notice | None:
        """A loss far above those before it. A loss that stays high becomes the usual one within `RECENT` steps."""
        loss, before = record["loss"], self._losses
        self._losses = [*before, loss][-RECENT:]
        if len(before) < ENOUGH:
            return None
        usual = statistics.median(before)
        deviation = 1.4826 * statistics.median(abs(value - usual) for value in before)
        # the largest, too: where one hard sample in twenty makes such a loss, it is no news
        if loss <= max(usual + SPIKE_DEVIATIONS * deviation, usual * SPIKE_SHARE, usual + SPIKE_RISE, *before):
            return None
        self._spikes += 1
        if not self._is_news("spike", record["step"], loss / max(usual, SPIKE_RISE)):
            return None
        spikes, self._spikes = self._spikes, 0
        ids = list(record.get("ids", ()))
        shown = f"; its samples: {', '.join(ids[:8])}{f' and {len(ids) - 8} more' if len(ids) > 8 else ''}" if ids else ""
        more = f" ({spikes - 1} more since the last notice)" if spikes > 1 else ""
        train, rate = self._settings.train, self._settings.stages[self._stage].lr
        look = f"look at the samples: cadmllm data show {ids[0]}; if" if ids else "if"
        return Notice(
            "spike",
            f"step {record['step']}: the loss jumped to {loss:.4f}, usually {usual:.4f}{more}{shown}",
            f"a hard or broken sample does this once, and it does no harm; {look} spikes come often: "
            + remedies.again(self._stage, f"train.clip={train.clip / 2:g}")
            + f", or --set stages.{self._stage}.lr={rate / 2:g}",
        )

    def _slower(self, record: Mapping[str, Any]) -> Notice | None:
        """Several steps in a row at less than a third of the usual speed."""
        tokens, seconds = record.get("computed", record["tokens"]), record["seconds"]
        if seconds <= 0.0:
            return None
        usual = statistics.median(self._speeds) if len(self._speeds) >= ENOUGH else 0.0
        if tokens / seconds >= SLOW_SHARE * usual:
            self._slow = [0.0, 0.0, 0.0, 0.0]
            self._speeds = [*self._speeds, tokens / seconds][-RECENT:]
            return None
        added = (1.0, float(tokens), seconds, record.get("waited", 0.0))
        self._slow = [old + new for old, new in zip(self._slow, added, strict=True)]
        count, tokens, seconds, waited = self._slow
        if count >= SLOW_IS_USUAL:
            self._speeds, self._slow = [], [0.0, 0.0, 0.0, 0.0]
            return None
        if count < SLOW_STEPS or not self._is_news("slow", record["step"], usual * seconds / max(tokens, 1.0)):
            return None
        speed = f"{tokens / seconds:,.0f} tokens/s for {count:.0f} steps, usually {usual:,.0f}"
        explained = waited >= seconds or tokens / (seconds - waited) >= SLOW_SHARE * usual
        why, remedy = self._why_slow(record, waited / seconds if explained else 0.0)
        return Notice("slow", f"step {record['step']}: {speed}; {why}", remedy)

    def _why_slow(self, record: Mapping[str, Any], waited: float) -> tuple[str, str]:
        train, stage = self._settings.train, self._stage
        if waited:
            return f"{waited:.0%} of that time was spent waiting for data", remedies.faster_loading(train)
        hot = record.get("gpu_temperature", 0) > HOT
        if record.get("gpu_throttled") or hot:
            degrees = f" at {record['gpu_temperature']:.0f} C" if "gpu_temperature" in record else ""
            return f"the GPU slows itself down{degrees}", "see what holds it back: nvidia-smi -q -d PERFORMANCE,TEMPERATURE"
        smaller = remedies.going_on(*remedies.smaller_micro_batches(train))
        if self._wsl and "peak_gib" in record:
            return (
                "probably GPU memory spilled into system memory, which the driver does under WSL instead of failing and NVML "
                "does not show",
                f"close other programs on the GPU (nvidia-smi on Windows) and go on: Ctrl-C, then cadmllm train stage{stage} "
                f"--resume; or let a step take less memory: {smaller}",
            )
        what = "nvidia-smi" if "peak_gib" in record else "top"
        return "heat, another process or slow data", f"see what else runs: {what}; and check machine and data: cadmllm doctor"

    @property
    def _settled(self) -> int:
        """The step after which a jump at the stage's start (new projectors, warm-up) is over."""
        return min(max(SETTLING_LEAST, self._settings.train.warmup_steps), int(SETTLING * self._total))

    @property
    def _window(self) -> int:
        return min(WINDOW_MOST, max(WINDOW_LEAST, int(WINDOW_SHARE * self._total)))

    @property
    def _judged(self) -> int:
        """The first step at which a loss should be below its beginning."""
        return self._settled + self._window + max(JUDGED_LEAST, int(JUDGED_SHARE * self._total))

    def _falls(self, record: Mapping[str, Any]) -> Notice | None:
        """The median of the newest losses against the median of those right after the beginning, in stages 2 and 3.

        A validation that has fallen overrules it. Where the shares of the combinations move, the training loss is not
        comparable, and validations alone tell.
        """
        step, window = record["step"], self._window
        if self._stage == 1 or self._moves:
            return None
        if step > self._settled and len(self._begin) < window:
            self._begin.append(record["loss"])
        if step < self._judged or len(self._begin) < window or (self._held and self._held[1] < self._held[0]):
            return None
        begin, now = statistics.median(self._begin), statistics.median(self._losses[-window:])
        return self._not_falling(step, begin, now, "the loss") if now >= begin else None

    def _not_falling(self, step: int, begin: float, now: float, what: str) -> Notice | None:
        if not self._is_news("not falling", step, now / max(begin, SPIKE_RISE)):
            return None
        return Notice(
            "not falling",
            f"step {step} of {self._total}: {what} of stage {self._stage} does not fall: {now:.4f} now, {begin:.4f} after the "
            f"first {self._settled} steps",
            remedies.make_it_fall(self._settings, self._stage),
        )

    def _forgets(self, step: int, loss: float) -> Notice | None:
        """The held-out loss of text alone against what it was when the stage began."""
        if self._text is None:
            self._text = [step, loss]
            return None
        since, base = self._text
        rise = loss - base
        if rise <= max(TEXT_RISE * base, TEXT_NATS) or not self._is_news("forgetting", step, rise):
            return None
        when = "when the stage began" if since == 0 else f"after step {since:.0f}"
        return Notice(
            "forgetting",
            f"step {step}: text-only ability fades: held-out loss of text alone {loss:.4f}, {base:.4f} {when}",
            remedies.keep_text(self._settings, self._stage),
        )
