"""Real imports in processes of their own: who is to blame, and what is remembered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cadmllm.doctor import imports
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Situation
from cadmllm.doctor.imports import state, try_all, try_chain
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.probe import SOURCE


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Packages that break in a way of their own when a probe imports them."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return make


def test_each_failure_is_blamed_on_its_package_and_the_rest_goes_on(fake):
    fake("fine_one", "print('chatter on import')")
    fake("gone_bad", "import does_not_exist")
    fake("crasher", "import os\nos.kill(os.getpid(), 11)")
    fake("quitter", "import sys\nsys.exit(4)")
    fake("fine_two", "")
    fake("aborter", "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(7)")
    chain = {name: name for name in ("fine_one", "gone_bad", "crasher", "quitter", "fine_two", "aborter")}
    failures, _ = try_chain(chain)
    assert [trial.name for trial in failures] == ["gone_bad", "crasher", "quitter", "aborter"]
    reasons = {trial.name: trial.reason for trial in failures}
    assert reasons["gone_bad"] == "ModuleNotFoundError: No module named 'does_not_exist'"
    assert "SIGSEGV" in reasons["crasher"]
    assert "SystemExit: 4" in reasons["quitter"]
    assert reasons["aborter"] == "the import ended with exit code 7 last words"


def test_the_module_at_the_bottom_is_to_blame(fake):
    fake("outer", "try:\n    import inner_one\nexcept OSError as error:\n    raise RuntimeError('wrapped') from error")
    fake("inner_one", "import inner_two")
    fake("inner_two", "def load():\n    raise OSError('damaged')\nload()")
    fake("lacking", "import does_not.exist")
    failures, _ = try_chain({"outer": "outer", "lacking": "lacking"})
    assert [(trial.blamed, trial.reason) for trial in failures] == [
        ("inner_two", "OSError: damaged"),
        ("does_not", "ModuleNotFoundError: No module named 'does_not'"),
    ]


def test_a_hanging_package_is_stopped(fake, monkeypatch):
    monkeypatch.setattr(imports, "LIMIT", 3.0)
    fake("sleeper", "import time\ntime.sleep(60)")
    fake("fine_one", "")
    failures, _ = try_chain({"sleeper": "sleeper", "fine_one": "fine_one"})
    assert [trial.name for trial in failures] == ["sleeper"]
    assert "no answer within 3 s" in failures[0].reason


def test_every_file_and_library_that_was_read_is_told(fake, tmp_path):
    fake("reader", "import sqlite3, helper")
    fake("helper", "")
    failures, files = try_chain({"reader": "reader"})
    assert failures == []
    assert {"reader.py", "helper.py"} <= set(files[str(tmp_path)])
    libraries = [f"{folder}/{name}" for folder, names in files.items() for name in names if ".so" in name]
    assert any("libc" in path for path in libraries)
    assert any("_sqlite3" in path for path in libraries)
    assert all(os.path.isabs(folder) for folder in files)


def test_one_that_ends_badly_after_its_import_is_not_remembered(fake):
    fake("late_crash", "import atexit, os\natexit.register(os._exit, 9)")
    assert try_chain({"late_crash": "late_crash"}) == ([], {})


def test_the_state_changes_with_each_thing_an_import_rests_on(tmp_path, monkeypatch):
    module, library, table = tmp_path / "m.py", tmp_path / "lib" / "x.so", tmp_path / "etc" / "ld.so.cache"
    for path in (module, library, table):
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    path, here = tmp_path / "path", tmp_path / "here"
    path.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    environ = {"LD_LIBRARY_PATH": str(tmp_path / "lib"), "PYTHONPATH": str(path)}
    files = {str(tmp_path): ["m.py"], str(tmp_path / "lib"): ["x.so"]}

    def now() -> str:
        return state(Situation(None, machine=Machine(tmp_path, environ)), files)

    seen = {now()}
    changes = [
        lambda: module.write_text("22"),
        lambda: library.write_text("22"),
        lambda: library.unlink(),
        lambda: table.write_text("22"),
        lambda: (tmp_path / "lib" / "libstdc++.so.6").write_text("a newer one"),
        lambda: (path / "yaml.py").write_text("in the way"),
        lambda: (path / "torchvision-0.1.dist-info").mkdir(),
        lambda: (here / "regex.py").write_text("in the way"),
    ]
    for number, change in enumerate(changes, 2):
        change()
        seen.add(now())
        assert len(seen) == number
    for name in ("notes.txt", "train_my_model.py"):
        (here / name).write_text("hides nothing")
    (path / "data").mkdir()
    assert now() in seen, "nothing that matters has changed since"


def test_the_same_environment_has_one_state_wherever_it_is_asked(tmp_path):
    code = """
import sys
from cadmllm.doctor.check import Situation
from cadmllm.doctor.imports import state
print(state(Situation(None), {}))
"""
    script = tmp_path / "bin" / "run_it.py"
    script.parent.mkdir()
    script.write_text(code)
    (tmp_path / "bin" / "other_script.py").write_text("")
    (tmp_path / "work").mkdir()
    environ = {**os.environ, "PYTHONPATH": ""}
    told = set()
    for folder in (SOURCE, str(tmp_path / "work")):
        for command in (["-c", code], [str(script)]):
            run = subprocess.run([sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, check=True)
            told.add(run.stdout)
    assert len(told) == 1


def test_environments_do_not_share_answers(fake, tmp_path, monkeypatch):
    fake("plain", "")
    tried: list[str] = []
    true = imports.try_chain
    monkeypatch.setattr(imports, "try_chain", lambda chain, environ: tried.append(environ["HF_HOME"]) or true(chain, environ))

    def attempt(home: str) -> None:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HF_HOME": home, "TERM": home}
        situation = Situation(None, machine=Machine(tmp_path, environ), cache=Cache(tmp_path / "cache.json"))
        assert try_all(situation, {"one": {"plain": "plain"}}) == []

    for home in ("a", "a", "b", "a", "b"):
        attempt(home)
    assert tried == ["a", "b"]
