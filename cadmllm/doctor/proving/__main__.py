"""The process that makes the proofs: told what to examine in a line of JSON, then the name of a proof a line.

Each line it sends begins with `prover.MARK`: {"doing": text} as it goes on, {"proof": name, "outcome": {...}, "measured": {...}}
when a proof is done. What goes wrong within one is an outcome of that one.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.console import Console, jsonable
from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.prover import MARK
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.doctor.proving.bench import Bench
    from cadmllm.settings import Settings

MODULES = {name: name for name in ("steps", "gradients", "labels", "reload", "prefill", "loader")} | {"time": "duration"}
MOST_PARTS = 300  # generated parts that are made for a proof


def main() -> int:
    """Serve until the input ends."""
    asked = json.loads(sys.stdin.readline())
    told: dict[tuple[str, str], str] = {}
    try:
        with bench_of(asked) as bench:
            for line in sys.stdin:
                name = line.strip()
                outcome = once_only(name, proved(name, bench), told)
                say(proof=name, outcome=jsonable(outcome), measured=jsonable(bench.measured))
    except CadmllmError as error:  # there is nothing to prove anything on
        say(failed=error.as_dict())
    finally:
        shutil.rmtree(asked["folder"], ignore_errors=True)  # the parent does, too, unless it was killed
    return 0


def once_only(name: str, outcome: Outcome, told: dict[tuple[str, str], str]) -> Outcome:
    """What keeps several proofs from being made is a finding of the first of them."""
    for finding in outcome.findings:
        first = told.setdefault((finding.code, finding.message), name)
        if first != name:
            return Outcome(skipped=f"{finding.code}, see {first}")
    return outcome


def say(**fields: object) -> None:
    """A line to the parent."""
    print(MARK + json.dumps(fields), flush=True)


def proved(name: str, bench: Bench) -> Outcome:
    """A proof's outcome; an error of any kind is a finding of this proof, and the next one is made all the same."""
    module = importlib.import_module(f"cadmllm.doctor.proving.{MODULES[name]}")
    try:
        return module.prove(bench)
    except CadmllmError as error:
        return Outcome(findings=(Finding(error.code, Level.FAIL, name, error.message, error.remedy),))
    except Exception as error:  # the boundary of this process: the other proofs still have something to say
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        message = f"the proof ended with {type(error).__name__}: {error} ({where})"
        return Outcome(findings=(Finding("E867", Level.FAIL, name, message, "report this with: cadmllm doctor --deep --json"),))


@contextmanager
def bench_of(asked: dict[str, Any]) -> Generator[Bench]:
    """What the first line asks for."""
    from cadmllm.doctor.proving.bench import Bench, Intent
    from cadmllm.settings import Settings

    folder = Path(asked["folder"])
    settings = Settings.model_validate(asked["settings"])
    console = Console(quiet=True)
    with opened(settings, asked["stages"], folder) as (settings, dataset):
        intent = Intent(asked["resume"], asked["from_scratch"])
        yield Bench(settings, asked["stages"], dataset, folder, console, intent, lambda text: say(doing=text))


@contextmanager
def opened(settings: Settings, stages: list[int], folder: Path) -> Generator[tuple[Settings, DataSet]]:
    """The run's data set; generated parts (`data.synthetic`) are made beside the proofs' folder.

    Raises:
        CadmllmError: E401 and others of `open_dataset`; E867 for more generated parts than a proof waits for.
    """
    from cadmllm.corpus.layout import open_dataset

    if not settings.data.synthetic:
        yield settings, open_dataset(settings.data, workers=settings.kernel.workers)
        return
    from cadmllm.corpus.synth import write_dataset

    count = settings.data.synthetic
    if count > MOST_PARTS:
        remedy = f"make them first: cadmllm data synth --count {count} --out DIR --points --views, then --set data.root=DIR"
        raise CadmllmError("E867", f"data.synthetic asks for {count:,} parts, more than a proof waits for ({MOST_PARTS})", remedy)
    shown = {part for n in stages for name, share in settings.stages[n].reached.items() if share > 0 for part in name.split("+")}
    with tempfile.TemporaryDirectory(prefix="parts-", dir=folder) as place:
        say(doing=f"making {count} parts")
        kernel, points, views = settings.kernel, "point_cloud" in shown, "image" in shown
        write_dataset(
            Path(place),
            count,
            settings.train.seed,
            points,
            views,
            kernel.workers,
            timeout=kernel.timeout,
            advance=lambda n: say(doing="making parts"),
        )
        nowhere = dict.fromkeys(("txt", "json_", "img", "points", "train", "val", "test", "exclude", "features"))
        data = settings.data.model_copy(update={"root": Path(place), "index": Path(place) / ".index", **nowhere})
        yield settings.model_copy(update={"data": data}), open_dataset(data)


if __name__ == "__main__":
    sys.exit(main())
