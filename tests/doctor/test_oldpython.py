"""An older Python gets E801, not a traceback."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import cadmllm
from cadmllm import __main__ as entry
from cadmllm.doctor import oldpython, system

PACKAGE = Path(cadmllm.__file__).parent


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py", "doctor/__init__.py", "doctor/oldpython.py"])
def test_what_an_old_python_meets_it_can_read(name):
    source = (PACKAGE / name).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    assert named | {node.module for node in top if isinstance(node, ast.ImportFrom)} <= {"os", "sys", "json", "__future__"}


def test_it_says_what_is_wrong_and_what_mends_it(monkeypatch, capsys):
    assert not oldpython.is_old()
    monkeypatch.setattr(oldpython.sys, "version_info", (3, 10, 14, "final", 0))
    assert oldpython.is_old()
    assert entry.main() == 1
    said = capsys.readouterr()
    assert "error: E801 Python 3.10.14 is older than 3.11" in said.err
    assert "hint: make setup PYTHON=python3.11" in said.err


def test_under_json_it_has_the_shape_of_doctor_and_of_errors(monkeypatch, capsys):
    monkeypatch.setattr(oldpython.sys, "version_info", (3, 9, 2, "final", 0))
    assert oldpython.refuse(["--json", "doctor"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is False
    assert [(finding["code"], finding["level"], finding["check"]) for finding in report["findings"]] == [
        ("E801", "fail", "python")
    ]
    assert oldpython.refuse(["--json", "train"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E801"
    assert oldpython.refuse(["doctor"]) == 1
    assert capsys.readouterr().out == "not ready: E801\n"


def test_both_name_the_same_oldest():
    assert oldpython.OLDEST == system.OLDEST
