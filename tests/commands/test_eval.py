"""`cadmllm eval` from the command line to the files: a model whose answers are put in its mouth, and files made on the spot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_base import make_base

from cadmllm.cad.omnicad import read_json
from cadmllm.cad.tokens import encode, from_text, to_text
from cadmllm.cli import main
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.evaluate import finish, robustness
from cadmllm.evaluate.sheet import choose
from cadmllm.infer import answering
from cadmllm.infer.generate import Answer
from cadmllm.models.fusion import build_model
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.models.weights import save_model
from cadmllm.resolve import Assignment, Origin, resolve

torch.set_num_threads(1)

BOX = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"
NOTHING = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"
Say = Callable[[str], str | None]  # an id to the text of its answer; None: what does not parse


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished stage 3 of the tiny preset."""
    folder = tmp_path_factory.mktemp("run")
    origin = Origin("command line", "test")
    base = make_base(tmp_path_factory.mktemp("base"))
    items = [Assignment("device", "cpu", origin), Assignment("model.llm", str(base), origin)]
    items.append(Assignment("model.point_count", "64", origin))
    settings = resolve(preset="tiny", assignments=items, environ={}).settings
    save_model(build_model(settings, stage=3), stage_folder(folder, 3), {})
    write_manifest(stage_folder(folder, 3))
    return folder


@pytest.fixture(autouse=True)
def small_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer of a kind: a picture takes a while."""
    monkeypatch.setattr(finish, "choose", lambda rows: choose(rows, 1))


@pytest.fixture
def data(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six parts, three of them for evaluation; the working folder is beside them."""
    monkeypatch.chdir(healthy.parent)
    (healthy / "test.txt").write_text("\n".join(ids_of(healthy)[:3]) + "\n")
    return healthy


def ids_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root / "json").with_suffix("").as_posix() for path in (root / "json").rglob("*.json"))


def truth_of(root: Path) -> Say:
    return lambda id_: to_text(list(encode(read_json(root / "json" / f"{id_}.json")).tokens))


def says(monkeypatch: pytest.MonkeyPatch, say: Say, stop: int | None = None) -> list[list[Any]]:
    """Put answers in the model's mouth, and return what it is shown; after `stop` calls somebody presses Ctrl-C."""
    calls: list[list[Any]] = []

    def generate(model: object, samples: list[Any], *, copies: int = 1, **_: object) -> list[Answer]:
        if stop is not None and len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(samples)
        return [_answer(say(sample.id)) for sample in samples for _ in range(copies)]

    monkeypatch.setattr(answering, "generate", generate)
    return calls


def _answer(text: str | None) -> Answer:
    return Answer(tuple(from_text(text)), True, -1.0, 5) if text is not None else Answer((3, 3, 3), False, -1.0, 5)


def evaluate(*args: object, root: Path | None = None, run: Path | None = None) -> int:
    shared = ["--preset", "tiny", "--set", "kernel.workers=1", "--set", "eval.points=256", "--set", "eval.bootstrap=50"]
    shared += ["--set", f"data.root={root}"] if root else []
    shared += ["--output_dir", str(run)] if run else []
    first, rest = ([args[0]], args[1:]) if args and args[0] == "robustness" else ([], args)
    return main(["eval", *map(str, first), *shared, *map(str, rest)])


def report(folder: str = "eval", name: str = "report.json") -> dict[str, Any]:
    return json.loads(Path(folder, name).read_text("utf-8"))


def rows_of(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "rows.jsonl").read_text("utf-8").splitlines()]


def test_right_wrong_and_broken_answers(data, run_dir, monkeypatch, capsys):
    right, wrong, broken = ids_of(data)[:3]
    true = truth_of(data)
    says(monkeypatch, lambda id_: {right: true(id_), wrong: BOX, broken: NOTHING}[id_])
    assert evaluate("--json", root=data, run=run_dir) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found == report()
    assert "stage3_all_model" in err
    combinations = found["summary"]["combinations"]
    assert list(combinations) == ["text", "text+point_cloud", "text+image", "text+point_cloud+image"]
    for group in combinations.values():
        assert group["count"] == 3
        assert group["invalid_rate"] == pytest.approx(1 / 3)
        assert group["metrics"]["iou_all"]["mean"] == pytest.approx(2 / 3 * group["metrics"]["iou"]["mean"])
        assert group["metrics"]["acc_cmd"]["count"] == 3  # the broken answer is a program all the same
    assert found["summary"]["floor"]["metrics"]["iou"]["mean"] == pytest.approx(1.0)
    rows = {(row["combination"], row["id"]): row for row in rows_of("eval")}
    assert rows["text", right]["iou"] > 0.95
    assert rows["text", right]["program"] == true(right)
    assert rows["text", wrong]["iou"] < 0.95
    assert rows["text", broken]["verdict"] in ("EMPTY", "INVALID")
    assert rows["text", broken]["reason"]
    assert len(Path("eval/rows.csv").read_text().splitlines()) == 13
    assert "| text + point cloud + image | 3 | 33.3 |" in Path("eval/report.md").read_text()
    assert Path("eval/sheet.png").read_bytes().startswith(b"\x89PNG")
    assert found["evaluation"]["checkpoint"]["sha256"]
    assert str(data.parent) not in json.dumps(found)  # nobody's folders


def test_what_is_shown_is_what_the_name_says(data, run_dir, monkeypatch, capsys):
    calls = says(monkeypatch, lambda id_: BOX)
    assert evaluate("--modalities", "point_cloud, image+text", "--samples", 1, root=data, run=run_dir) == 0
    with_text, bare = (call[0] for call in calls)
    assert (len(with_text.clouds), len(with_text.images)) == (0, 1)
    assert (len(bare.clouds), len(bare.images)) == (1, 0)
    assert bare.clouds[0].points.shape == (64, 3)
    assert bare.caption == BARE_REQUEST != with_text.caption
    assert with_text.target is None
    assert "truth against itself" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_rows(data, run_dir, monkeypatch, capsys):
    say: Say = lambda id_: BOX if id_.endswith("1") else None  # noqa: E731
    says(monkeypatch, say)
    options = ("--batch_size", 2, "--modalities", "text,text+image")
    assert evaluate("--out", "whole", *options, root=data, run=run_dir) == 0
    says(monkeypatch, say, stop=3)
    assert evaluate("--out", "parts", *options, root=data, run=run_dir) == 130
    assert "the same command goes on" in capsys.readouterr().err
    with Path("parts/rows.jsonl").open("a") as file:
        file.write('{"id": "torn')  # as a kill would leave it
    calls = says(monkeypatch, say)
    assert evaluate("--out", "parts", *options, root=data, run=run_dir) == 0
    assert "rows are there already" in capsys.readouterr().err
    assert len(calls) < 4  # of two combinations with two groups each, what is done is not done again
    for name in ("rows.jsonl", "rows.csv", "report.md", "sheet.png"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes(), name
    one, two = report("whole"), report("parts")
    assert {key for key in one if one[key] != two[key]} <= {"seconds"}


def test_another_model_or_setting_is_refused(data, run_dir, monkeypatch, capsys):
    says(monkeypatch, lambda id_: BOX)
    options = ("--modalities", "text", "--samples", 1)
    assert evaluate(*options, root=data, run=run_dir) == 0
    before = Path("eval/report.json").read_bytes()
    capsys.readouterr()
    assert evaluate(*options, "--candidates", 2, root=data, run=run_dir) == 1
    err = capsys.readouterr().err
    assert "E714" in err
    assert "settings.infer.candidates 1, and now it is 2" in err
    assert Path("eval/report.json").read_bytes() == before
    assert evaluate(*options, "--batch_size", 3, "--set", "eval.bootstrap=9", root=data, run=run_dir) == 0  # same rows


def test_test_falls_back_to_val_and_nothing_is_an_error(data, run_dir, monkeypatch, capsys):
    says(monkeypatch, lambda id_: BOX)
    (data / "test.txt").rename(data / "val.txt")
    assert evaluate("--modalities", "text", "--samples", 1, root=data, run=run_dir) == 0
    assert "no test ids" in capsys.readouterr().err
    assert report()["evaluation"]["data"]["split"] == "val"
    (data / "val.txt").unlink()
    assert evaluate("--set", "data.val_share=0", root=data, run=run_dir) == 1
    assert "E713" in capsys.readouterr().err


def test_what_cannot_be_shown_is_left_out_and_counted(data, run_dir, monkeypatch, capsys):
    one, two, three = ids_of(data)[:3]
    next((data / "pcd").rglob(f"{Path(one).name}.*")).unlink()
    next((data / "pcd").rglob(f"{Path(two).name}.*")).write_bytes(b"PK\x03\x04 no archive")
    says(monkeypatch, lambda id_: BOX)
    assert evaluate("--modalities", "text,text+point_cloud", root=data, run=run_dir) == 0
    found = report()
    groups = found["summary"]["combinations"]
    assert (groups["text"]["count"], groups["text+point_cloud"]["count"]) == (3, 1)
    reasons = found["left_out"]["text+point_cloud"]
    assert reasons["no point cloud"] == 1
    assert sum(reasons.values()) == 2
    assert two in capsys.readouterr().err
    assert "left out of text + point cloud" in Path("eval/report.md").read_text()


@pytest.mark.parametrize(
    ("options", "code", "exit_code"),
    [
        (("--modalities", "smell"), "E102", 2),
        (("--modalities", ","), "E102", 2),
        (("--predictions", "x"), "E105", 2),
        (("--truth", "x"), "E105", 2),
        (("--predictions", "x", "--truth", "y"), "E201", 1),
        (("--checkpoint", "nowhere"), "E503", 1),
        (("--split", "mine"), "E102", 2),
        (("--bananas",), "E106", 2),
    ],
)
def test_slips_of_the_pen(data, capsys, options, code, exit_code):
    assert evaluate(*options, root=data) == exit_code
    assert code in capsys.readouterr().err
    assert not Path("eval").exists()


def test_a_modality_without_an_encoder(data, run_dir, monkeypatch, capsys):
    assert evaluate("--modalities", "text+image", root=data, run="none") == 1
    err = capsys.readouterr().err
    assert "E701" in err
    assert "stage 3" in err


def test_anyones_files(data, monkeypatch, capsys):
    right, other, broken, lacking = ids_of(data)[:4]
    truth, given = Path("true"), Path("given")
    for id_ in (right, other, broken, lacking):
        (truth / id_).parent.mkdir(parents=True, exist_ok=True)
        (given / id_).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "json" / f"{id_}.json", truth / f"{id_}.json")
    assert main(["convert", str(truth / f"{right}.json"), str(given / f"{right}.step"), "--quiet"]) == 0
    assert main(["convert", str(truth / f"{right}.json"), str(given / f"{other}.stl"), "--quiet"]) == 0
    (given / f"{broken}.txt").write_text("this is no program")
    (truth / "odd.txt").write_text(NOTHING)
    (given / "odd.txt").write_text(BOX)
    capsys.readouterr()
    assert evaluate("--predictions", given, "--truth", truth) == 0
    out, err = capsys.readouterr()
    assert "1 of 5 truths have no prediction" in err
    assert "E712: 1 truths are no solids" in out
    found = report()
    group = found["summary"]["combinations"]["files"]
    assert group["count"] == 4
    assert group["reasons"]["PARSE"] == 0.25
    assert group["reasons"]["EMPTY"] == 0.25
    assert group["metrics"]["iou"]["count"] == 2
    rows = {row["id"]: row for row in rows_of("eval") if row["combination"] == "files"}
    assert rows[right]["iou"] > 0.999
    assert rows[lacking]["reason"] == "there is no prediction"
    assert Path("eval/sheet.png").stat().st_size > 1000
    # other files under the same names are another evaluation
    (given / f"{broken}.txt").write_text(BOX)
    assert evaluate("--predictions", given, "--truth", truth) == 1
    assert "E714" in capsys.readouterr().err


def test_no_truth_is_a_solid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "x.txt").write_text(NOTHING)
    assert evaluate("--predictions", "a", "--truth", "b") == 1
    assert "E712" in capsys.readouterr().err


@pytest.mark.long
def test_robustness(data, run_dir, monkeypatch, capsys):
    true = truth_of(data)
    calls = says(monkeypatch, true)
    monkeypatch.setattr(robustness, "NOISE", (0.0, 0.05))
    monkeypatch.setattr(robustness, "MISSING", (0.0, 0.6))
    assert evaluate("robustness", "--samples", 1, root=data, run=run_dir) == 0
    out = capsys.readouterr().out
    found = report(name="robustness.json")
    curves = {curve["name"]: curve for curve in found["curves"]}
    assert set(curves) == {"noise", "missing half", "missing ball", "views", "modalities"}  # 64 points cannot be fewer
    assert [level["label"] for level in curves["noise"]["levels"]] == ["0 %", "5 %"]
    assert [level["label"] for level in curves["views"]["levels"]] == ["1", "0"]
    assert len(curves["modalities"]["levels"]) == 7
    # the unspoilt level is measured once for all curves of clouds
    assert curves["noise"]["levels"][0]["case"] == curves["missing half"]["levels"][0]["case"]
    assert len(calls) == len({level["case"] for curve in found["curves"] for level in curve["levels"]}) + 1
    assert all(level["metrics"]["iou_all"]["mean"] > 0.95 for curve in found["curves"] for level in curve["levels"])
    assert "Points missing in a ball" in out
    assert Path("eval/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "![curves](robustness.png)" in Path("eval/robustness.md").read_text()
    lines = Path("eval/robustness.csv").read_text().splitlines()
    assert len({line.count(",") for line in lines if '"' not in line}) == 1
    # it lies beside an evaluation of the same folder
    assert evaluate("--samples", 1, "--modalities", "text", root=data, run=run_dir) == 0
