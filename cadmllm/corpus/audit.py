"""Is a data set whole and sound, and what can each stage train on? Everything that `data check` says, as one value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.corpus import census, completeness, drive, growth
from cadmllm.corpus.deep import DeepReport, deep_check, forget_outdated
from cadmllm.corpus.facts import Flaw, Kind
from cadmllm.corpus.findings import Finding, Gathering
from cadmllm.corpus.layout import DataSet
from cadmllm.corpus.readiness import StageReport, read_pool, stage_reports
from cadmllm.corpus.remedies import Place
from cadmllm.corpus.scan import open_index
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.index import Index
    from cadmllm.settings import Settings

SAMPLE = 100  # ids whose files measure the speed of a drive
ENTRIES = ("E403", "E408")  # codes of entries of caption files that cannot be used, in a file that can


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found.

    Attributes:
        root: of the data set.
        counts: captions, programs, clouds, views, and ids that have caption and program.
        folders: where each kind of file lies; None where there is no such folder.
        stages: by stage, what it can train on.
        findings: what is wrong, by code, what hurts most first.
        deep: what the kernel did, None without `--deep`.
        speed: of the drive of Windows that it lies on, None elsewhere.
        dataset: for whoever goes on with it.
    """

    root: Path
    counts: dict[str, int]
    folders: dict[str, list[str]]
    stages: dict[int, StageReport]
    findings: list[Finding]
    deep: DeepReport | None
    speed: drive.Speed | None
    dataset: DataSet

    def as_dict(self, stage: int) -> dict[str, Any]:
        """The JSON form; `ready` speaks of `stage`."""
        out: dict[str, Any] = {
            "ready": self.stages[stage].ready,
            "root": str(self.root),
            "counts": self.counts,
            "folders": self.folders,
            "stages": {str(number): asdict(report) for number, report in self.stages.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }
        if self.deep is not None:
            out["deep"] = asdict(self.deep)
        if self.speed is not None:
            out["speed"] = asdict(self.speed)
        return out

    def unusable(self) -> Iterator[tuple[Kind, str, Flaw]]:
        """(kind, owner, flaw) of every file and entry that cannot be used, and of what the kernel found odd."""
        yield from self.dataset.index.flaws(level="fail")
        for kind, owner, flaw in self.dataset.index.flaws(level="warn"):
            if kind is Kind.DEEP or kind is Kind.CAPTIONS and flaw.code in ENTRIES:
                yield kind, owner, flaw

    def incomplete(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(id, modalities that it lacks) of every id that lacks any, in order."""
        return census.incomplete(census.walk(self.dataset.index))


def audit(settings: Settings, *, stage: int, deep: bool, workers: int, console: Console) -> Audit:
    """Look at every file of a data set, examine what is new or changed, and judge.

    Args:
        settings: which data set, what the stages show, how long sequences may be.
        stage: that is asked for.
        deep: whether every program is built and compared with its cloud.
        workers: processes.
        console: for progress and for what deserves to be said.

    Raises:
        CadmllmError: E401 (there is no such folder), E482 (no place for the index), E301 (`deep` without a kernel).
    """
    data = settings.data
    if not data.root.is_dir() and not (data.txt and data.json_):
        remedy = "name the right folder, or make parts: cadmllm data synth --count 500 --out parts --points --views"
        if re.match(r"[A-Za-z]:[^\\/]", str(data.root)):
            remedy = r"the shell has taken the backslashes away: put the path in single quotes, 'W:\data\Omni-CAD'"
        what = "is not a folder" if data.root.exists() else "does not exist"
        raise CadmllmError("E401", f"the data set folder {data.root} {what}", remedy)
    place = Place(data.root, stage)
    before = growth.look(completeness.places(data))
    index = open_index(data, contents=True, workers=workers, console=console)
    dataset = DataSet(data, index)
    report = None
    if deep:
        report = deep_check(
            index, workers=workers, timeout=settings.kernel.timeout, memory=settings.kernel.memory, console=console
        )
    else:
        forget_outdated(index)
    noted = len(dataset.problems)
    pool, error = read_pool(dataset)
    found = Gathering(flaw for _, _, flaw in index.flaws())
    counted = census.take(completeness.noting_orphans(census.walk(index), found), pool.left_out)
    stages = stage_reports(settings, dataset, pool, counted)
    if error is not None:
        found.add(error.code, "fail", error.message.split(":")[0], error.message)
    for problem in dataset.problems[noted:]:
        found.add(problem.code, "warn", problem.where, problem.message)
    completeness.folders_that_lack(settings, dataset.folders, stage, found)
    completeness.files_that_lack(index, settings, found)
    completeness.sequences(index, settings, stages, stage, found)
    _title_of_builds(index, found)
    for flaw in growth.grown(before, completeness.places(data)):
        found.add(flaw.code, flaw.level, flaw.path, flaw.message)
    speed = _speed(settings, dataset, stage, found)
    counts = dataset.counts | {"ids": len(dataset.ids)}
    return Audit(data.root, counts, _folder_names(dataset), stages, found.findings(place), report, speed, dataset)


def _title_of_builds(index: Index, found: Gathering) -> None:
    """Failed builds are counted by verdict."""
    if not found.count("E302"):
        return
    sql = """SELECT json_extract(facts, '$.verdict') v, COUNT(*) n FROM items
             WHERE kind = ? AND v <> 'OK' GROUP BY v ORDER BY n DESC, v"""
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in index.db.execute(sql, (Kind.DEEP,)))
    found.title("E302", f"the kernel built no usable solid ({verdicts})")


def _folder_names(dataset: DataSet) -> dict[str, list[str]]:
    folders = dataset.folders
    named: dict[str, Iterable[Path | None]] = {"txt": [folders.txt], "json": [folders.json], "img": [folders.img]}
    return {name: [str(path) for path in paths if path] for name, paths in (named | {"points": folders.points}).items()}


def _speed(settings: Settings, dataset: DataSet, stage: int, found: Gathering) -> drive.Speed | None:
    """Measure where the data lies on a drive of Windows; slow ones are a finding."""
    root = settings.data.root
    if drive.drive_of(root, drive.mounts()) is None:
        return None
    speed = drive.measure(sample_files(dataset))
    if speed is None:
        return None
    judged = drive.verdict(root, speed, files_an_epoch(settings, stage, len(dataset.ids)))
    if judged is not None:
        flaw, remedy = judged
        found.add(flaw.code, flaw.level, flaw.path, flaw.message, remedy)
    return speed


def sample_files(dataset: DataSet, count: int = SAMPLE) -> Iterator[Path]:
    """Files of ids spread over the whole data set: program, cloud and first view of each."""
    step = max(1, len(dataset.ids) // count)
    for id_ in islice(iter(dataset.ids[::step]), count):
        try:
            yield dataset.program_path(id_)
            cloud = dataset.cloud_path(id_)
            if cloud is not None:
                yield cloud
            yield from dataset.view_paths(id_)[:1]
        except CadmllmError:  # a link that was put there since: it is not read
            continue


def files_an_epoch(settings: Settings, stage: int, ids: int) -> int:
    """Files that an epoch of a stage reads: a program a sample, clouds and views by their shares."""
    asked = settings.stages[stage]
    halves = (asked.probabilities, asked.probabilities_end or asked.probabilities)  # they move evenly from one to the other
    shown = [(name, share / 2.0) for shares in halves for name, share in shares.items()]
    clouds = sum(share for name, share in shown if "point_cloud" in name)
    images = sum(share for name, share in shown if "image" in name) * settings.model.image_views
    return round(ids * (1.0 + clouds + images))
