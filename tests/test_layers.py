"""The floors of docs/architecture.md, read from the imports; the error codes, read from the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cadmllm.errors import CODES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cadmllm"
FLOORS = {
    "errors": 1,
    "remedies": 1,
    "console": 1,
    "places": 1,
    "flags": 1,
    "settings": 2,
    "keys": 2,
    "resolve": 2,
    "tomlfile": 2,
    "cad": 3,
    "corpus": 4,
    "plan": 4,
    "models": 5,
    "infer": 6,
    "train": 7,
    "evaluate": 7,
    "export": 7,
    "doctor": 8,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}
HEAVY = {
    *("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "bitsandbytes", "wandb", "pydantic"),
    *("pydantic_settings", "numpy", "scipy", "PIL", "h5py", "trimesh", "manifold3d", "OCP", "pynvml"),
}
TORCH = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
LIGHT = [PACKAGE / name for name in ("cli.py", "errors.py", "remedies.py", "console.py", "places.py", "flags.py", "__main__.py")]
LIGHT += sorted((PACKAGE / "commands").rglob("*.py"))


def name_of(path: Path) -> str:
    """'cadmllm.cad.program' of its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def is_type_checking(node: ast.If) -> bool:
    """`if TYPE_CHECKING:`; what stands in it is never run."""
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Every module that a file imports, as written, with the names imported from packages of ours; free under TYPE_CHECKING."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")).body, top_only)


def _imports(nodes: list[ast.stmt], top_only: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            base = node.module or ""
            inside = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES]
            yield from inside or [base]
        elif isinstance(node, ast.If) and is_type_checking(node):
            yield from _imports(node.orelse, top_only)
        elif not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                    yield from _imports([child], top_only)  # type: ignore[list-item]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: name_of(path))
def test_a_room_imports_only_from_lower_floors(path):
    own = room(name_of(path))
    for module in imports(path):
        other = room(module) if module.startswith("cadmllm.") else ""
        if not own or not other or own == other:
            continue
        assert (
            FLOORS[other] < FLOORS[own]
            or {own, other} <= {"errors", "remedies", "console", "places", "flags"}
            or {own, other}
            <= {
                "settings",
                "keys",
                "resolve",
            }
        ), f"{name_of(path)} (floor {FLOORS[own]}) imports {module} (floor {FLOORS[other]})"
        if own == "models" and other == "corpus":
            assert module == "cadmllm.corpus.types", f"{name_of(path)} imports {module}: of corpus, models know the types alone"


def test_every_room_has_a_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("__pyc", "__init"))}
    assert rooms - {"_bundled"} <= set(FLOORS)


def test_no_cycles():
    graph = {name: {m for m in imports(path, top_only=True) if m in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, "import cycle: " + " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                walk(other, (*way, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: name_of(path))
def test_nothing_heavy_at_the_top(path):
    heavy = {module for module in imports(path, top_only=True) if module.partition(".")[0] in HEAVY}
    assert not heavy, f"{path.name} imports {heavy} at the top: move it into the function that needs it"


def test_cad_corpus_and_plan_have_no_torch():
    for path in SOURCES:
        if room(name_of(path)) in ("cad", "corpus", "plan") and path.relative_to(PACKAGE).as_posix() != "corpus/batch.py":
            found = {module for module in imports(path) if module.partition(".")[0] in TORCH}
            assert not found, f"{name_of(path)} imports {found}"


def imported_by(code: str) -> str:
    """The heavy packages that running `code` in a fresh Python imports, as text."""
    code += f"\nimport sys\nprint('heavy:', *sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout


def test_help_imports_nothing_heavy():
    out = imported_by("from cadmllm.cli import main\nassert main(['--help']) == 0")
    assert "Usage: cadmllm" in out
    assert out.endswith("heavy:\n")


def test_doctor_survives_what_it_examines():
    assert imported_by("import cadmllm.doctor.runner") == "heavy:\n"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: name_of(path))
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


TABLES = (PACKAGE / "errors.py", PACKAGE / "remedies.py")  # of all codes: what stands in them is not raised there


def codes_in(node: ast.AST) -> set[str]:
    """String literals that look like codes; the list of codes that a check of doctor announces raises nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value} if re.fullmatch(r"E\d{3}", node.value) else set()
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Check":
        return set()
    return set().union(*(codes_in(child) for child in ast.iter_child_nodes(node)))


def test_every_code_that_is_used_exists_and_every_code_is_used():
    used = {code for path in SOURCES if path not in TABLES for code in codes_in(ast.parse(path.read_text("utf-8")))}
    assert used - set(CODES) == set(), "codes without a meaning in errors.CODES"
    assert set(CODES) - used == set(), "codes that nothing raises: remove them from errors.CODES"


def names_in(path: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize(
    "script", sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("checkpoints/*.py")]), ids=lambda path: path.stem
)
def test_scripts_import_what_is_there(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cadmllm"):
            known = names_in(MODULES[node.module or ""])
            for alias in node.names:
                there = alias.name in known or f"{node.module}.{alias.name}" in MODULES
                assert there, f"{script.name} imports {alias.name}, which {node.module} does not have"


def test_no_pickle_and_no_exec():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}:{node.lineno} calls {called}"
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if called == "torch.load":
                assert given.get("weights_only") is True, f"{path}:{node.lineno}: torch.load without weights_only=True"
            if called in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", False) is False, f"{path}:{node.lineno}: np.load with pickles"
