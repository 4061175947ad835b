"""Looks at held-out prompts: answered, built, judged, drawn, written down; and training does not feel them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.tokens import from_text
from cadmllm.console import Console
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.roster import Ids
from cadmllm.corpus.synth import write_dataset
from cadmllm.errors import CadmllmError
from cadmllm.infer import sampling
from cadmllm.infer.gallery import SHOWN, draw_gallery
from cadmllm.infer.generate import Answer
from cadmllm.infer.sampling import Prompt, Reply, sampler, spread, validator
from cadmllm.settings import DataSettings, Settings

torch.set_num_threads(1)

STAGE = SimpleNamespace(number=2, reached={"text+point_cloud": 1.0})
BOX = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"  # 40 x 20 x 10 mm


class NoKernel:
    """In place of a workshop: builds nothing, or fails as a kernel can that is not installed."""

    def __init__(self, error: CadmllmError | None = None) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> NoKernel:
        return self

    def __enter__(self) -> NoKernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, jobs) -> list[BuildResult]:
        if self.error is not None:
            raise self.error
        return [BuildResult(Verdict.BUILD, "SIGSEGV in the kernel") for _ in jobs]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("parts")
    write_dataset(root, 6, 0, points=200, views=False, workers=1)
    return open_dataset(DataSettings(root=root))


@pytest.fixture
def look(dataset, fake, tmp_path: Path):
    """(model, settings, console, sampler) of a model that answers briefly."""
    model = fake()
    values = {"model": {"point_count": 64}, "infer": {"max_new_tokens": 32}, "run": {"dir": tmp_path / "run"}}
    settings = Settings(kernel={"workers": 1, "timeout": 20}, **values)  # ty: ignore[invalid-argument-type]
    model.settings = settings
    console = Console(out=io.StringIO(), err=io.StringIO())
    return SimpleNamespace(
        model=model, settings=settings, console=console, sampler=sampler(dataset, dataset.ids, settings, 4, console)
    )


def test_prompts_are_answered_built_judged_and_drawn(look, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    look.model.train()
    found = look.sampler(look.model, STAGE, 100, tmp_path / "samples")
    assert look.console.err.getvalue() == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert look.model.training
    assert set(found.shares) == {"all", "text", "text+point_cloud"}  # text alone is always looked at
    assert all(0.0 <= share <= 1.0 for share in found.shares.values())
    assert found.pictures == [tmp_path / "samples" / "stage2_step000100.png"]
    with Image.open(found.pictures[0]) as picture:
        assert picture.width == 1600
        assert picture.height > 4 * 300
    rows = [json.loads(line) for line in (tmp_path / "samples/stage2_step000100.jsonl").read_text().splitlines()]
    assert rows == found.rows
    assert [row["combination"] for row in rows] == ["text", "text+point_cloud"] * 2
    assert len({row["id"] for row in rows}) == 4
    for row in rows:
        assert row["prompt"]
        assert row["verdict"] in {verdict.value for verdict in Verdict}
        assert from_text(row["program"])
        assert (row["volume_mm3"] is not None) == (row["chamfer_x1000"] is not None) == (row["verdict"] == "OK")


def test_two_looks_ask_the_same_and_the_end_has_a_sheet_of_its_own(look, dataset, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampling, "Workshop", NoKernel())
    first = look.sampler(look.model, STAGE, 100, tmp_path)
    assert look.sampler(look.model, STAGE, 200, tmp_path).rows == first.rows
    at_end = validator(dataset, dataset.ids, look.settings, 4, look.console)
    assert at_end(look.model, STAGE) == first.shares == {"all": 0.0, "text": 0.0, "text+point_cloud": 0.0}
    names = {path.name for path in (look.settings.run.dir / "samples").iterdir()}
    assert names == {"stage2_end.png", "stage2_end.jsonl"}
    assert first.rows[0]["verdict"] == "BUILD"
    assert "SIGSEGV" in first.rows[0]["reason"]


@pytest.mark.parametrize("kind", ["kernel", "memory", "disk"])
def test_what_goes_wrong_is_said_and_never_ends_a_run(look, monkeypatch, tmp_path: Path, kind: str) -> None:
    broken = CadmllmError("E301", "the CAD kernel is not installed", "pip install it")
    monkeypatch.setattr(sampling, "Workshop", NoKernel(broken if kind == "kernel" else None))
    folder = tmp_path / "samples"
    if kind == "memory":
        monkeypatch.setattr(sampling, "generate", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
    if kind == "disk":
        folder.write_text("in the way")
    look.model.train()
    found = look.sampler(look.model, STAGE, 100, folder)
    assert found.pictures == []
    assert look.model.training
    said = look.console.err.getvalue()
    assert "training goes on" in said
    assert {"kernel": "E301", "memory": "none left", "disk": "exists"}[kind] in said


def test_out_of_memory_writes_fewer_answers_side_by_side(look, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampling, "Workshop", NoKernel())
    look.model.room = 2
    assert len(look.sampler(look.model, STAGE, 100, tmp_path).rows) == 4
    said = look.console.err.getvalue()
    assert all(f"out of memory for {2 * n} answers side by side: {n}" in said for n in (8, 4, 2))


def test_nobody_is_held_out(look, dataset, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampling, "Workshop", NoKernel())
    nobody = sampler(dataset, Ids(dataset.ids.names[:0]), look.settings, 4, look.console)
    assert nobody(look.model, STAGE, 100, tmp_path).rows == []
    assert "no held-out id" in look.console.err.getvalue()


def test_prompts_are_spread_over_the_combinations() -> None:
    have = {"a": {"text"}, "b": {"text", "image"}, "c": {"text", "point_cloud"}, "d": {"text"}, "e": {"text", "image"}}
    dataset = SimpleNamespace(modalities=lambda name: frozenset(have[name]))
    names = ["text", "text+point_cloud", "text+image", "text+point_cloud+image"]
    assert spread(list("abcde"), names, dataset, 5) == [
        ("a", "text"),
        ("c", "text+point_cloud"),
        ("b", "text+image"),
        ("d", "text"),
        ("e", "text+image"),
    ]
    assert spread(list("abcde"), names, dataset, 2) == [("a", "text"), ("c", "text+point_cloud")]
    assert spread([], names, dataset, 3) == []


def test_a_missing_kernel_is_said_before_the_first_step(look, dataset, monkeypatch) -> None:
    sampler(dataset, dataset.ids, look.settings, 4, look.console)
    assert look.console.err.getvalue() == ""
    monkeypatch.setattr(sampling, "find_spec", lambda _: None)
    sampler(dataset, dataset.ids, look.settings, 4, look.console)
    assert "cadquery-ocp-novtk" in look.console.err.getvalue()


@pytest.mark.long
def test_answers_make_no_new_versions_of_compiled_layers() -> None:
    made: list[int] = []

    def backend(graph, _inputs):
        made.append(1)
        return graph.forward

    layer = torch.compile(lambda x: x * 2.0, backend=backend)
    with sampling._uncompiled(True):
        assert layer(torch.ones(3)).sum() == 6.0
    assert made == []
    layer(torch.ones(3))
    assert made == [1]


# the sheet


def _reply(caption: str, result: BuildResult, program: bool = True) -> Reply:
    from cadmllm.cad.tokens import decode
    from cadmllm.corpus.types import Cloud, Sample

    normals = np.tile([0.0, 0.0, 1.0], (50, 1)).astype(np.float32)
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    cloud = Cloud(points, normals, None)  # ty: ignore[invalid-argument-type]
    image = np.full((300, 200, 3), 200, np.uint8)
    sample = Sample("0000/" + "9" * 60, "text+point_cloud+image", caption, None, (cloud,), (image,))
    tokens = tuple(from_text(BOX))
    spelt = decode(tokens)
    return Reply(Prompt(sample, sample, spelt, result), Answer(tokens, True, -1.0, 5), spelt if program else None, result, 12.3)


@pytest.mark.parametrize("caption", ["", "A box.", "word " * 900, "一个带有四个孔的板 " * 40, "x" * 3000])
def test_whatever_is_written_stays_on_the_sheet(caption: str) -> None:
    replies = [
        _reply(caption, BuildResult(Verdict.INVALID, "the loop of profile 3 crosses itself " * 20), program)
        for program in (True, False)
    ]
    paper = draw_gallery(replies, {"all": 0.0}, "Stage 3, step 12,000", "/a/very/long/place" * 20)
    for text, box in paper.written:
        assert box.left >= 0, text
        assert box.right <= paper.image.width, text
        assert box.bottom <= paper.image.height, text
    said = [text for text, _ in paper.written]
    assert "0 of 2 answers are valid solids" in said
    assert said.count("invalid") == 2


def test_more_prompts_than_have_room_are_counted() -> None:
    paper = draw_gallery([_reply("x", BuildResult(Verdict.EMPTY, "nothing"))] * (SHOWN + 5), {"all": 0.0}, "t", "r")
    assert any("5 more prompts" in text for text, _ in paper.written)
    assert paper.image.height < 7000
