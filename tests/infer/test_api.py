"""`from cadmllm import load` with the bundled tiny base, as a script would use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cadmllm
from cadmllm import load
from cadmllm.cad.kernel import measure, read_step
from cadmllm.cad.program import Program
from cadmllm.errors import CadmllmError
from cadmllm.infer.api import CadModel
from cadmllm.settings import Settings

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CadModel]:
    settings = Settings(run={"dir": tmp_path_factory.mktemp("no-run")}, device="cpu", dtype="float32", kernel={"workers": 1})
    with load(settings=settings) as opened:
        yield opened


def test_a_text_becomes_a_part_with_all_that_is_promised(cad: CadModel, tmp_path: Path) -> None:
    part = cad.generate("A rectangular plate with four corner holes.", candidates=2, size="80x40x5mm")
    assert part.ok
    assert isinstance(part.program, Program)
    assert part.record["size_mm"] == pytest.approx([80.0, 40.0, 5.0], rel=1e-6)
    assert part.record["checkpoint"]["path"] == "tiny-base (bundled)"
    assert measure(part.solid)["volume"] == pytest.approx(part.record["volume_mm3"])
    part.to_step(tmp_path / "plate.step")
    assert measure(read_step(tmp_path / "plate.step"))["volume"] == pytest.approx(part.record["volume_mm3"], rel=1e-6)
    for kind, write in (("stl", part.to_stl), ("glb", part.to_glb), ("json", part.to_json), ("py", part.to_python)):
        write(tmp_path / f"plate.{kind}")
        assert (tmp_path / f"plate.{kind}").stat().st_size > 100
    assert set(part.save(tmp_path / "all")) == {path.name for path in (tmp_path / "all").iterdir()}


def test_the_same_seed_is_the_same_part_and_another_is_not(cad: CadModel) -> None:
    one, again, other = (cad.generate("a bracket", temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one.tokens == again.tokens != other.tokens


def test_what_the_model_has_no_encoder_for_is_refused(cad: CadModel) -> None:
    with pytest.raises(CadmllmError) as caught:
        cad.generate(points=np.random.default_rng(0).uniform(-1.0, 1.0, (500, 3)))
    assert caught.value.code == "E701"


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CadmllmError) as caught:
        load(tmp_path / "nothing")
    assert caught.value.code == "E503"


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import sys, cadmllm; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(cadmllm.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cadmllm.__version__
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = cadmllm.lod
