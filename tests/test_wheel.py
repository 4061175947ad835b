"""What an installed wheel holds, and that it finds it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cadmllm import places
from cadmllm.errors import CadmllmError
from cadmllm.places import bundled
from cadmllm.resolve import preset_names

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return path


def test_it_carries_presets_data_and_the_tiny_base(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for preset in preset_names():
        assert f"cadmllm/_bundled/presets/{preset}.toml" in names
    for folder in ("data", "checkpoints/tiny-base"):
        here = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file() and "derived" not in p.parts}
        assert {f"cadmllm/_bundled/{name}" for name in here} <= set(names)
    assert not [name for name in names if name.startswith("tests/") or "stage1_text_model" in name]


def test_it_finds_them_far_from_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import cadmllm, sys; from cadmllm.cli import main; assert 'site' in cadmllm.__file__, cadmllm.__file__; "
        "sys.exit(main(['config', 'show', '--preset', 'tiny']))"
    )
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {code}"]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert 'llm = "tiny"' in run.stdout
    assert str(tmp_path / "site" / "cadmllm" / "_bundled" / "data") in run.stdout


def test_what_is_not_there_is_said(monkeypatch, tmp_path):
    assert bundled("presets") == ROOT / "presets"
    monkeypatch.setattr(places, "_PACKAGE", tmp_path / "site-packages" / "cadmllm")
    (tmp_path / "site-packages" / "presets").mkdir(parents=True)  # somebody else's, beside the package
    with pytest.raises(CadmllmError, match="bundled presets is neither"):
        bundled("presets")
