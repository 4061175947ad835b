"""Between the formats: programs (.json .h5 .txt) to programs, source (.py), solids (.step .stl .glb) and pictures (.png)."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cadmllm.cad import deepcad_vec, omnicad, script, tokens
from cadmllm.cad.bounds import Box
from cadmllm.cad.files import write_whole
from cadmllm.cad.kernel import BuildResult, Job, Verdict
from cadmllm.cad.program import Program, validate
from cadmllm.errors import CadmllmError, Exit

READABLE = ("json", "h5", "txt")
BUILT = ("step", "stl", "glb", "png")
WRITABLE = (*READABLE, "py", *BUILT)
PICTURE = 512  # pixels of a picture's side
LARGEST_TEXT = 2**20  # bytes of token text; the longest real program has 20 kB
CENTER = re.compile(r"# center (\S+) (\S+) (\S+) mm")
NO_PROGRAM = {
    "step": "a STEP file holds the finished shape, not its sketches and extrusions, so there is no program to get out of it",
    "stl": "an STL file holds triangles, not sketches and extrusions; `cadmllm infer --pc` makes a program from it",
    "glb": "a GLB file holds triangles, not sketches and extrusions; `cadmllm infer --pc` makes a program from it",
    "png": "a picture is no program; `cadmllm infer --image` makes one from it",
    "py": "Python source is never executed here",
}
ALIASES = {"stp": "step"}


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that was not converted, and the error that says why."""

    file: Path
    error: CadmllmError


@dataclass(slots=True)
class Report:
    """What became of the files.

    Attributes:
        total: files met.
        verdicts: how many of each verdict; a file that could not be read or expressed counts as PARSE.
        failures: in the order of the files.
        notes: what was left out on the way, a line each.
    """

    total: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The form under `--json`."""
        failures = [{"file": str(f.file), "code": f.error.code, "reason": f.error.message} for f in self.failures]
        failed = len(failures)
        return {
            "total": self.total,
            "ok": self.total - failed,
            "failed": failed,
            "verdicts": dict(sorted(self.verdicts.items())),
            "failures": failures,
        }


def kind_of(path: Path) -> str:
    """The format that a name stands for: its ending in small letters, without the dot."""
    ending = path.suffix[1:].lower()
    return ALIASES.get(ending, ending)


def read_program(path: Path, notes: list[str] | None = None) -> tuple[Program, Box | None]:
    """A program from any readable format, and the box its author recorded, mm.

    Raises:
        CadmllmError: E213 when the format holds no program, else those of the format's reader, each naming the file.
    """
    try:
        return _read(path, notes)
    except CadmllmError as error:
        raise _naming(path, error) from error


def _read(path: Path, notes: list[str] | None) -> tuple[Program, Box | None]:
    kind = kind_of(path)
    if kind == "json":
        data = omnicad.load(path)
        return omnicad.parse(data, str(path), notes), omnicad.box_of(data)
    if kind == "h5":
        return deepcad_vec.read_h5(path), None
    if kind == "txt":
        return _read_text(path), None
    raise impossible(path)


def impossible(path: Path) -> CadmllmError:
    """E213 for a file that cannot be read as a program."""
    why = NO_PROGRAM.get(kind_of(path), f"'{path.suffix}' is no format of a program")
    return CadmllmError(
        "E213", f"{path}: {why}", "give a program: .json (DeepCAD / Omni-CAD), .h5 (DeepCAD) or .txt (token text)"
    )


def _read_text(path: Path) -> Program:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CadmllmError("E201", f"cannot read {path}: {reason}", "check the path and its permissions") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CadmllmError("E211", f"{path} is not text", "give token text as cadmllm writes it") from error
    if len(raw) > LARGEST_TEXT or not text.strip():
        found = "is empty" if not text.strip() else f"is larger than {LARGEST_TEXT >> 20} MB"
        raise CadmllmError("E211", f"{path} {found}", "give token text as cadmllm writes it, one program a file")
    program = validate(tokens.decode(tokens.from_text(text)), str(path))
    return _placed(program, text.split("\n", 1)[0], path)


def _placed(program: Program, first_line: str, path: Path) -> Program:
    """The program where the comment that `_to_text` writes says; tokens alone are centred on the origin."""
    found = CENTER.fullmatch(first_line.strip())
    if not found:
        return program
    try:
        x, y, z = (float(word) for word in found.groups())
    except ValueError as error:
        raise CadmllmError("E211", f"{path}: line 1: {first_line[:60]!r} names no point", "correct or remove the line") from error
    extrudes = []
    for extrude in program.extrudes:
        sketches = []
        for sketch in extrude.sketches:
            a, b, c = sketch.plane.origin
            sketches.append(replace(sketch, plane=replace(sketch.plane, origin=(a + x, b + y, c + z))))
        extrudes.append(replace(extrude, sketches=tuple(sketches)))
    return validate(Program(tuple(extrudes)), str(path))


def _to_text(encoded: tokens.Encoded) -> str:
    x, y, z = encoded.transform.center
    return f"# center {x:.10g} {y:.10g} {z:.10g} mm\n{tokens.to_text(encoded.tokens)}"


def write_program(program: Program, box: Box | None, path: Path, notes: list[str] | None = None) -> None:
    """Write a format that needs no kernel, whole or not at all. Raises E212, E303.

    Args:
        program: a valid program, mm.
        box: recorded bounding box, mm, where one is known.
        path: where to; its ending says the format.
        notes: gets a line for everything that token text leaves out as it is finer than the grid.
    """
    kind = kind_of(path)
    if kind == "json":
        omnicad.write_json(program, path, box)
    elif kind == "h5":
        deepcad_vec.write_h5(program, path, box)
    elif kind == "txt":
        encoded = tokens.encode(program)
        if notes is not None:
            notes.extend(f"{path}: {note}" for note in encoded.notes)
        write_whole(path, _to_text(encoded).encode())
    else:
        write_whole(path, script.to_script(program, path.stem).encode())


def plan(source: Path, out: Path, to: str | None = None, only: str | None = None) -> list[tuple[Path, Path]]:
    """Which file becomes which.

    Args:
        source: a file, or a folder of which every file of a readable format is taken, sub-folders included.
        out: a file; or a folder, made if need be, that gets the sub-folders of `source`.
        to: the format to write; needed where `out` is a folder.
        only: the one format to take from a folder.

    Raises:
        CadmllmError: E105 (options that do not go together), E201 (no such file), E213 (impossible or nothing to do).
    """
    for given in (to, only):
        if given is not None and given not in WRITABLE:
            raise _misused(f"{given!r} is no format", f"choose one of {', '.join(WRITABLE)}")
    try:
        found, folder = os.path.lexists(source), out.is_dir()
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise CadmllmError("E201", f"cannot look for {source}: {error.strerror}", "check the path") from error
    if not found:
        raise CadmllmError("E201", f"{source} does not exist", "check the path")
    if not source.is_dir():
        if to is not None and not folder and kind_of(out) in WRITABLE and kind_of(out) != to:
            raise _misused(f"--to {to}, but {out} ends otherwise", f"write {out.with_suffix('.' + to)}, or leave out --to")
        target = out / f"{source.stem}.{to}" if to is not None and kind_of(out) != to else out
        return [(source, _checked(source, target))]
    if to is None:
        raise _misused(f"{source} is a folder, and nothing says what to make of it", "add a format: --to step")
    if out.exists() and not out.is_dir():
        raise _misused(f"{source} is a folder, but {out} is a file", "give a folder to write to")
    files = list(_files(source, out, (only,) if only else READABLE))
    if not files:
        what = " or ".join(f".{kind}" for kind in ((only,) if only else READABLE))
        raise CadmllmError("E213", f"no {what} file under {source}", "give a folder that holds programs")
    pairs = [(file, _checked(file, out / file.relative_to(source).with_suffix(f".{to}"))) for file in files]
    seen: dict[Path, Path] = {}
    sources = {file.resolve() for file in files}
    for file, target in pairs:
        if target.resolve() in sources:
            raise CadmllmError("E213", f"{target} is one of the inputs, which are never overwritten", "give another folder")
        if target in seen:
            raise _misused(f"{seen[target]} and {file} would both become {target}", f"add --from {kind_of(file)}")
        seen[target] = file
    return pairs


def _misused(message: str, remedy: str) -> CadmllmError:
    return CadmllmError("E105", message, remedy, exit_code=Exit.USAGE)


def _checked(source: Path, target: Path) -> Path:
    if target.is_dir():
        raise _misused(f"{target} is a folder, and nothing says what to make of {source}", "add a format: --to step")
    if kind_of(target) not in WRITABLE:
        raise CadmllmError("E213", f"{target}: unknown format {target.suffix!r}", f"end it in one of .{', .'.join(WRITABLE)}")
    if target.exists() and target.samefile(source):
        raise CadmllmError("E213", f"{target} is the input itself, which is never overwritten", "give another name to write to")
    return target


def _files(source: Path, out: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    """Files of these formats, sorted; what lies in `out` inside `source` was made before and is no input."""
    own = out.resolve()
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (Path(folder) / name).resolve() != own)
        for name in sorted(names):
            if kind_of(Path(name)) in kinds and not name.startswith("."):
                yield Path(folder) / name


def _remedy(result: BuildResult) -> str:
    if result.verdict is Verdict.TIMEOUT:
        return "give it more time: --set kernel.timeout=120"
    if "MiB of memory" in result.reason:
        return "give it more memory: --set kernel.memory=16384 (0: no limit)"
    return "correct the program or leave it out"


def convert(
    pairs: list[tuple[Path, Path]], *, workers: int, timeout: float, memory: int = 0, advance: Callable[[], object]
) -> Report:
    """Convert each file of a plan; what fails is reported and leaves nothing behind.

    Args:
        pairs: from `plan`.
        workers: kernel processes, started only where solids are wanted.
        timeout: seconds a build may take.
        memory: MiB it may take; 0: no limit.
        advance: called after each file.

    Raises:
        CadmllmError: E301 (the kernel cannot be loaded), E303 (a place cannot be written): they concern all files.
    """
    from cadmllm.cad.workshop import Workshop

    report = Report(total=len(pairs))
    failed: dict[Path, Failure] = {}
    made: list[Path] = []

    def fail(source: Path, verdict: str, error: CadmllmError) -> None:
        report.verdicts[verdict] += 1
        failed[source] = Failure(source, error)
        advance()

    waiting: deque[tuple[Path, Path]] = deque()

    def jobs() -> Iterator[Job]:
        for source, target in pairs:
            try:
                program, box = read_program(source, report.notes)
                _make_folder(target.parent, made)
                if kind_of(target) in BUILT:
                    waiting.append((source, target))
                    yield _job(program, target)
                    continue
                write_program(program, box, target, report.notes)
            except CadmllmError as error:
                if error.code == "E303":
                    raise
                fail(source, Verdict.PARSE, _naming(source, error))
                continue
            report.verdicts[Verdict.OK] += 1
            advance()

    solids = any(kind_of(target) in BUILT for _, target in pairs)
    try:
        with Workshop(min(workers, len(pairs)), timeout, memory=memory) if solids else nullcontext() as workshop:
            for result in workshop.map(jobs()) if workshop else _drain(jobs()):
                source, target = waiting.popleft()
                if not result.ok:
                    message = f"{source}: {result.verdict}: {result.reason}"
                    fail(source, result.verdict, CadmllmError("E302", message, _remedy(result)))
                    continue
                if kind_of(target) == "png":
                    _draw(result, target)
                report.verdicts[Verdict.OK] += 1
                advance()
    finally:
        for folder in reversed(made):
            if not any(folder.iterdir()):
                folder.rmdir()
    report.failures = [failed[source] for source, _ in pairs if source in failed]
    return report


def _naming(source: Path, error: CadmllmError) -> CadmllmError:
    """The error with the file's name in its message."""
    if str(source) in error.message:
        return error
    return CadmllmError(error.code, f"{source}: {error.message}", error.remedy)


def _drain(jobs: Iterator[Job]) -> Iterator[BuildResult]:
    """Runs a generator that has no job for the kernel."""
    deque(jobs, maxlen=0)
    yield from ()


def _job(program: Program, target: Path) -> Job:
    places = {kind: target if kind == kind_of(target) else None for kind in ("step", "stl", "glb")}
    return Job(program, places["step"], places["stl"], places["glb"], mesh=kind_of(target) == "png")


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make a folder and note which ones are new, so that those that stay empty can go."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            made.append(new)
    except OSError as error:
        raise CadmllmError("E303", f"cannot make the folder {missing[0]}: {error.strerror}", "give another place") from error


def _draw(result: BuildResult, target: Path) -> None:
    from cadmllm.cad.render import render, write_png

    assert result.mesh is not None
    write_png(render(result.mesh, view=0, size=PICTURE), target)
