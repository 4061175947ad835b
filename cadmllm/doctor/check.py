"""What a check is, what it finds, and what all of them say together. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from cadmllm.doctor.cache import Cache
from cadmllm.doctor.machine import Machine

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

T = TypeVar("T")


class Level(StrEnum):
    """How bad a finding is: only FAIL keeps a run from being ready."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem: a code of `errors.CODES`, WARN or FAIL, the check that found it, what was found, and what mends it."""

    code: str
    level: Level
    check: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Fix:
    """What `doctor --fix` may do about a finding: local and reversible, nothing else.

    Attributes:
        kind: 'folder' (make the folder `name`), 'setting' (write `name = value` into cadmllm.toml), 'environment' (write
            `export name=value` into cadmllm.env, which a shell may source).
        name: a path, a dotted key, or a variable.
        value: of a setting or a variable.
        why: what it mends, in one line.
    """

    kind: Literal["folder", "setting", "environment"]
    name: str
    value: str | int | float | bool = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to.

    Attributes:
        summary: what was seen, for the check's line when nothing is wrong.
        findings: problems only.
        skipped: why the check does not apply; empty when it ran.
        details: more lines, for `-v`.
        fixes: what `--fix` may do.
    """

    summary: str = ""
    findings: tuple[Finding, ...] = ()
    skipped: str = ""
    details: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()

    @property
    def level(self) -> Level:
        """The worst finding's level."""
        if self.skipped:
            return Level.SKIP
        levels = {finding.level for finding in self.findings}
        return Level.FAIL if Level.FAIL in levels else Level.WARN if levels else Level.OK


@dataclass(frozen=True, slots=True)
class Intent:
    """How the stages are to be started, as on the command line of `train`."""

    resume: bool = False
    overwrite: bool = False
    from_scratch: bool = False


@dataclass(slots=True)
class Situation:
    """What the checks look at, and what earlier checks have learnt for later ones.

    Attributes:
        settings: resolved; None when pydantic, which they are made with, cannot be imported.
        stages: the stages that are to be trained, ascending; those with 0 epochs are left out.
        broken: import names of required packages that cannot be imported.
        machine: where system files and the environment are read.
        cache: what was found well before, by key.
        intent: how the run will be started.
        plan: what `--json` has under 'plan'; the check of the plan fills it.
        console: is shown what takes long (a first index); None: nobody is.
    """

    settings: Settings | None
    stages: tuple[int, ...] = (1, 2, 3)
    broken: set[str] = field(default_factory=set)
    machine: Machine = field(default_factory=Machine)
    cache: Cache = field(default_factory=Cache)
    intent: Intent = field(default_factory=Intent)
    plan: dict[str, Any] = field(default_factory=dict)
    console: Console | None = None
    _known: dict[str, object] = field(default_factory=dict)

    @property
    def needed(self) -> Settings:
        """The settings, for checks that are only run when there are any."""
        assert self.settings is not None
        return self.settings

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made at its first use and shared by all checks under that name."""
        if name not in self._known:
            self._known[name] = make()
        return cast(T, self._known[name])

    @property
    def dataset(self) -> DataSet:
        """The data set of the settings, opened once for all checks (and for the training that follows them).

        Raises:
            CadmllmError: E401, E402, E407, E482.
        """
        from cadmllm.corpus.layout import open_dataset

        settings = self.needed
        return self.once("data set", lambda: open_dataset(settings.data, console=self.console, workers=settings.kernel.workers))


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: its stable name ('disk').
        what: what it makes sure of, one line.
        codes: the codes it may find.
        run: looks at the situation; may raise, which is a finding E899 of its own.
        needs: import names of packages without which it cannot run.
        needs_settings: whether it reads settings.
        group: 'system', 'packages', 'gpu', 'checkpoints', 'data', 'disk', 'logging', 'plan' or 'proofs'; `--only` and `--skip`
            take it as well as a name.
        deep: made with `--deep` alone.
        cached_by: what its cached part is keyed by, for the documentation; empty where nothing is kept.
    """

    name: str
    what: str
    codes: tuple[str, ...]
    run: Callable[[Situation], Outcome]
    needs: tuple[str, ...] = ()
    needs_settings: bool = True
    group: str = "system"
    deep: bool = False
    cached_by: str = ""


@dataclass(slots=True)
class Report:
    """What all checks say.

    Attributes:
        outcomes: in order.
        seconds: that each took, by name.
        plan: of the run (`doctor/fit.py`).
        strict: warnings keep from being ready, too.
    """

    outcomes: list[tuple[Check, Outcome]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    strict: bool = False

    @property
    def findings(self) -> list[Finding]:
        """Problems of all checks, failures first."""
        found = [finding for _, outcome in self.outcomes for finding in outcome.findings]
        return sorted(found, key=lambda finding: finding.level is not Level.FAIL)

    @property
    def fixes(self) -> list[Fix]:
        """What may be done about them here, each once."""
        return list(dict.fromkeys(fix for _, outcome in self.outcomes for fix in outcome.fixes))

    @property
    def ready(self) -> bool:
        """Whether nothing failed (and, when strict, nothing deserves a warning)."""
        return all(finding.level is not Level.FAIL and not self.strict for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """The shape of a report under `--json`: problems only, and the plan."""
        return {"schema": 1, "ready": self.ready, "findings": self.findings, "plan": self.plan}
