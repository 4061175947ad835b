"""A run makes what is missing or changed, keeps what is not its own, and can be stopped at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cadmllm.cad import omnicad
from cadmllm.cad.kernel import Verdict
from cadmllm.corpus.derive import Outcome, Recipe, derive
from cadmllm.corpus.manifest import FOLDER, MANIFEST
from cadmllm.corpus.parts import generate
from cadmllm.corpus.prepare import Commission, Report, prepare
from cadmllm.errors import CadmllmError

REPOSITORY = Path(__file__).resolve().parents[2]
POINTS = Recipe(points=32)
BOTH = Recipe(points=32, step=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four programs, one of them broken."""
    folder = tmp_path / "json" / "0000"
    folder.mkdir(parents=True)
    for name, part in zip("abd", generate(3, 0), strict=True):
        omnicad.write_json(part.program, folder / f"{name}.json")
    (folder / "c.json").write_text("{}")
    return tmp_path


def here(commissions: Iterable[Commission]) -> Iterator[Outcome]:
    """An engine in this process."""
    for commission in commissions:
        yield derive(commission.open())


def run(root: Path, recipe: Recipe = POINTS, out: str = "", engine=here, names: str = "abcd", **more) -> Report:
    return prepare([f"0000/{name}" for name in names], root / "json", root / out, recipe, engine=engine, **more)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.made, report.kept, report.failed, report.skipped


def lines(root: Path) -> dict[str, dict]:
    return {line["id"]: line for line in map(json.loads, (root / MANIFEST).read_text().splitlines())}


def test_a_second_run_does_nothing(root: Path):
    assert counts(run(root)) == (3, 0, 1, 0)
    before = files(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.npz")}
    again = run(root)
    assert counts(again) == (0, 3, 1, 1)
    assert again.verdicts == {"OK": 3, "PARSE": 1}
    assert again.failures[0]["id"] == "0000/c"
    assert files(root) == before
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.npz")} == times


def test_what_is_gone_or_altered_is_made_again_and_nothing_else(root: Path):
    run(root)
    before = files(root)
    (root / "pcd/0000/a.npz").unlink()
    (root / "pcd/0000/d.npz").write_bytes(b"short")
    assert counts(run(root)) == (2, 1, 1, 1)
    assert files(root) == before


def test_another_parameter_makes_its_product_anew(root: Path):
    run(root, BOTH)
    step = {path: path.stat().st_mtime_ns for path in root.rglob("*.step")}
    first = files(root)
    assert counts(run(root, replace(BOTH, seed=1))) == (3, 0, 1, 0)
    assert (root / "pcd/0000/a.npz").read_bytes() != first["pcd/0000/a.npz"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.step")} == step
    assert counts(run(root, BOTH)) == (3, 0, 1, 0)
    assert files(root) == first


def test_a_new_release_makes_anew(root: Path, monkeypatch):
    run(root)
    monkeypatch.setattr("cadmllm.corpus.derive.SAMPLER", 99)
    assert counts(run(root)) == (3, 0, 1, 0)
    assert counts(run(root)) == (0, 3, 1, 1)


def test_a_changed_program_is_made_anew_and_leaves_nothing_of_the_old_one(root: Path):
    run(root, BOTH)
    (root / "json/0000/a.json").write_bytes((root / "json/0000/d.json").read_bytes())
    (root / "json/0000/b.json").write_text("[]")
    report = run(root)
    assert counts(report) == (1, 1, 2, 1)
    assert report.stale == 2  # the STEP files of a and b, which were not asked for now
    assert not list(root.glob("*/0000/b.npz"))
    assert sorted(path.name for path in root.rglob("*.step")) == ["d.step"]
    assert lines(root)["0000/a"]["program"] == lines(root)["0000/d"]["program"]
    (root / "json/0000/b.json").write_bytes((root / "json/0000/d.json").read_bytes())
    assert counts(run(root)) == (1, 2, 1, 1)


def test_what_failed_is_tried_again_when_told_so_or_changed(root: Path):
    run(root)
    assert counts(run(root, retry=True)) == (0, 3, 1, 0)
    (root / "json/0000/c.json").write_bytes((root / "json/0000/d.json").read_bytes())
    assert counts(run(root)) == (1, 3, 0, 0)


def test_a_timeout_is_tried_again_with_more_time(root: Path):
    def slow(commissions: Iterable[Commission]) -> Iterator[Outcome]:
        for commission in commissions:
            commission.open()
            yield commission.fail(Verdict.TIMEOUT, "not done within 1 s", 1.0)

    assert counts(run(root, engine=slow, timeout=1.0)) == (0, 0, 4, 0)
    assert lines(root)["0000/a"]["limit"] == 1.0
    assert counts(run(root, timeout=1.0)) == (0, 0, 4, 4)
    assert counts(run(root, timeout=9.0)) == (3, 0, 1, 0)


def test_more_products_are_added(root: Path):
    run(root)
    before = files(root)
    assert counts(run(root, Recipe(step=True))) == (3, 0, 1, 0)
    assert len(list(root.rglob("*.step"))) == 3
    assert {name: content for name, content in files(root).items() if name in before and name != MANIFEST} == {
        name: content for name, content in before.items() if name != MANIFEST
    }
    assert set(lines(root)["0000/a"]) == {"id", "program", "verdict", "center", "scale", "points", "step"}
    assert counts(run(root, BOTH)) == (0, 3, 1, 1)


def test_files_of_others_are_kept(root: Path):
    for name in ("pointcloud/0000/a.ply", "pcd/0000/b.npz", "img/0000/d_003.jpg", "img/0000/dd_000.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"mine: {name}")
    before = files(root)
    report = run(root, Recipe(points=32, views=True, size=32))
    assert report.foreign == {"points": 2, "views": 1}
    assert {name: content for name, content in files(root).items() if name in before} == before
    assert not (root / "pcd/0000/a.npz").exists()
    assert [path.name for path in sorted((root / "img/0000").glob("d_*"))] == ["d_003.jpg"]
    assert len(list((root / "img/0000").glob("a_*"))) == 8
    only = run(root, POINTS, names="ab")
    assert (only.others, only.made, only.kept) == (2, 0, 0)


def test_nothing_is_written_outside(root: Path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "pcd").symlink_to(elsewhere)
    with pytest.raises(CadmllmError) as caught:
        run(root)
    assert caught.value.code == "E419"
    assert list(elsewhere.iterdir()) == []
    (root / "pcd").unlink()
    (root / "pcd").mkdir()
    (root / "pcd" / "0000").symlink_to(elsewhere)
    with pytest.raises(CadmllmError) as caught:
        run(root)
    assert caught.value.code == "E419"
    (root / "pcd" / "0000").unlink()
    (root / "pcd" / "0000").mkdir()
    (elsewhere / "thesis").write_text("years of work")
    (root / "pcd" / "0000" / "a.npz").symlink_to(elsewhere / "thesis")  # a link in a file's place is a file of someone else
    assert run(root).foreign == {"points": 1}
    assert (elsewhere / "thesis").read_text() == "years of work"


def test_a_full_disk_loses_nothing(root: Path, tmp_path_factory):
    def full(commissions: Iterable[Commission]) -> Iterator[Outcome]:
        for number, commission in enumerate(commissions):
            piece = commission.open()
            if number == 2:
                (piece.aside / "host-1").write_text("half")
                (piece.out / "pcd/0000/c.npz").write_text("written, and not told of")
                raise CadmllmError("E303", "no space left on device", "free some space")
            yield derive(piece)

    with pytest.raises(CadmllmError, match="no space"):
        run(root, engine=full)
    assert sorted(lines(root)) == ["0000/a", "0000/b"]
    assert sorted(path.name for path in (root / "pcd/0000").iterdir()) == ["a.npz", "b.npz"]
    assert not (root / FOLDER).exists()
    assert counts(run(root)) == (1, 2, 1, 0)


def test_an_output_folder_apart_leaves_the_data_set_alone(root: Path):
    before = files(root)
    run(root, out="more")
    assert {name: content for name, content in files(root).items() if not name.startswith("more/")} == before
    run(root, BOTH, out="other")
    assert files(root / "more")["pcd/0000/a.npz"] == files(root / "other")["pcd/0000/a.npz"]


SCRIPT = """
import sys
from pathlib import Path
from cadmllm.corpus.derive import Recipe
from cadmllm.corpus.prepare import prepare

if __name__ == "__main__":
    root = Path(sys.argv[1])
    ids = sorted(p.relative_to(root / "json").with_suffix("").as_posix() for p in (root / "json").rglob("*.json"))
    report = prepare(ids, root / "json", root, Recipe(points=32, step=True, views=True, size=32), workers=2, timeout=60.0)
    print(report.made, report.kept, report.failed)
"""


def start(root: Path, script: Path) -> subprocess.Popen[str]:
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(root)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs have it ignored
    )


def journal_bytes(root: Path) -> int:
    try:
        return (root / FOLDER / "journal.jsonl").stat().st_size
    except FileNotFoundError:
        return 0


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(tmp_path: Path):
    for name in ("calm", "killed"):
        (tmp_path / name / "json" / "0000").mkdir(parents=True)
        for part in generate(14, 5):
            omnicad.write_json(part.program, tmp_path / name / "json" / f"{part.id}.json")
        (tmp_path / name / "json" / "0000" / "x.json").write_text("{}")
    calm = start(tmp_path / "calm", tmp_path / "calm.py")
    assert calm.communicate(timeout=120)[0].split() == ["14", "0", "1"]
    expected = files(tmp_path / "calm")
    root = tmp_path / "killed"
    kills = 0
    # after the first claim, after the first outcomes, at an odd moment, and by a polite signal
    for least, how in ((1, signal.SIGKILL), (1500, signal.SIGKILL), (3700, signal.SIGKILL), (1, signal.SIGINT)):
        child = start(root, tmp_path / "killed.py")
        while child.poll() is None and journal_bytes(root) < least:
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(how)
            kills += 1
        child.communicate(timeout=60)
    assert kills >= 3
    last = start(root, tmp_path / "killed.py")
    last.communicate(timeout=120)
    assert last.returncode == 0
    assert files(root) == expected


def test_a_stopped_run_is_told_of_and_keeps_what_it_made(tmp_path: Path):
    (tmp_path / "json" / "0000").mkdir(parents=True)
    for part in generate(40, 5):
        omnicad.write_json(part.program, tmp_path / "json" / f"{part.id}.json")
    command = [
        sys.executable,
        "-m",
        "cadmllm",
        "data",
        "prepare",
        str(tmp_path),
        "--views",
        "--view-size",
        "64",
        "--workers",
        "1",
    ]
    child = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while child.poll() is None and journal_bytes(tmp_path) < 2000:
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert "the same command goes on from here" in said
    assert 1 <= len(lines(tmp_path)) < 40
    pictures = [path for path in (tmp_path / "img").rglob("*") if path.is_file()]
    assert len(pictures) == 8 * len(lines(tmp_path))
    assert not (tmp_path / FOLDER).exists()


def test_worker_crashes_and_time_limits_are_verdicts(root: Path, monkeypatch):
    """With the real crew: a program that never ends and one that is read from nowhere."""
    from tests.cad.test_workshop import slow

    omnicad.write_json(slow(), root / "json/0000/c.json")
    report = run(root, engine=None, workers=2, timeout=6.0)
    assert counts(report) == (3, 0, 1, 0)
    assert lines(root)["0000/c"]["verdict"] == "TIMEOUT"
    assert lines(root)["0000/c"]["reason"] == "not done within 6 s"
    assert len(lines(root)["0000/c"]["program"]) == 64
    assert not (root / FOLDER).exists()
