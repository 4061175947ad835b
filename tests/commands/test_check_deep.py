"""`cadmllm data check --deep`, `--quarantine`, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cadmllm.cli import main


def checked(capsys, *words: str | Path) -> tuple[int, dict]:
    """Exit code and JSON of a check."""
    capsys.readouterr()
    code = main(["data", "check", *map(str, words), "--json", "--quiet", "--workers", "1"])
    return code, json.loads(capsys.readouterr().out)


def by_code(found: dict) -> dict[str, dict]:
    return {finding["code"]: finding for finding in found["findings"]}


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "json" / "0000").iterdir())


def settle(root: Path) -> None:
    """Long ago: what was written within the last moments may be written again, so it is examined twice."""
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))


def test_a_healthy_set_is_built_once(healthy, capsys):
    settle(healthy)
    _, found = checked(capsys, healthy, "--deep")
    assert found["findings"] == []
    assert found["deep"] == {"built": 6, "known": 0, "verdicts": {"OK": 6}, "compared": 6}
    _, found = checked(capsys, healthy, "--deep")
    assert found["deep"] == {"built": 0, "known": 6, "verdicts": {"OK": 6}, "compared": 6}
    os.utime(healthy / "pcd" / "0000" / f"{names(healthy)[2]}.npz")
    (healthy / "json" / "0000" / f"{names(healthy)[4]}.json").unlink()
    _, found = checked(capsys, healthy, "--deep")
    assert (found["deep"]["built"], found["deep"]["known"]) == (1, 4)
    assert main(["data", "check", str(healthy), "--deep", "--quiet"]) == 0
    assert "5 known from before; OK 5" in capsys.readouterr().out


def test_what_only_the_kernel_can_tell(healthy, capsys):
    ids = names(healthy)
    one, two = (healthy / "pcd" / "0000" / f"{id_}.npz" for id_ in ids[:2])
    aside = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(aside)
    crossing = healthy / "json" / "0000" / f"{ids[2]}.json"
    crossing.write_text(json.dumps(crossed(json.loads(crossing.read_text()))))
    other_size = healthy / "json" / "0000" / f"{ids[3]}.json"
    data = json.loads(other_size.read_text())
    data["properties"]["bounding_box"]["max_point"]["x"] += 0.01
    other_size.write_text(json.dumps(data))
    settle(healthy)
    code, found = checked(capsys, healthy, "--deep")
    assert code == 0
    findings = by_code(found)
    assert {code: (f["level"], f["count"]) for code, f in findings.items()} == {
        "E302": ("fail", 1),
        "E461": ("warn", 1),
        "E462": ("fail", 2),
    }
    assert findings["E462"]["paths"] == [str(one), str(two)]
    assert findings["E302"]["paths"] == [str(crossing)]
    assert "INVALID" in findings["E302"]["message"]
    assert findings["E461"]["paths"] == [str(other_size)]
    assert found["deep"]["verdicts"] == {"INVALID": 1, "OK": 5}
    assert by_code(checked(capsys, healthy)[1]).keys() == findings.keys()  # known, also without --deep
    one.write_bytes(aside)
    assert by_code(checked(capsys, healthy)[1])["E462"]["count"] == 1  # what changed since is not known any more


def crossed(data: dict) -> dict:
    """The same file with one profile, a bow tie."""
    for entity in data["entities"].values():
        for profile in entity.get("profiles", {}).values() if isinstance(entity.get("profiles"), dict) else []:
            points = [(0.0, 0.0), (0.02, 0.02), (0.02, 0.0), (0.0, 0.01)]
            lines = [
                {
                    "type": "Line3D",
                    "start_point": {"x": a[0], "y": a[1], "z": 0.0},
                    "end_point": {"x": b[0], "y": b[1], "z": 0.0},
                }
                for a, b in zip(points, points[1:] + points[:1], strict=True)
            ]
            profile["loops"] = [{"is_outer": True, "profile_curves": lines}]
    return data


def test_what_took_too_long_is_tried_again_with_more_time(healthy, capsys):
    for path in (healthy / "json" / "0000").iterdir():
        if path.stem not in names(healthy)[:2]:
            path.unlink()
    settle(healthy)
    _, found = checked(capsys, healthy, "--deep", "--set", "kernel.timeout=0.0001")
    assert found["deep"]["verdicts"] == {"TIMEOUT": 2}
    assert (by_code(found)["E302"]["level"], by_code(found)["E302"]["count"]) == ("warn", 2)
    assert "kernel.timeout" in by_code(found)["E302"]["remedy"]
    _, found = checked(capsys, healthy, "--deep", "--set", "kernel.timeout=0.0001")
    assert found["deep"]["built"] == 0
    _, found = checked(capsys, healthy, "--deep")
    assert (found["deep"]["built"], found["deep"]["verdicts"]) == (2, {"OK": 2})
    assert "E302" not in by_code(found)


def test_quarantine_from_the_command_line(healthy, tmp_path, capsys):
    ids = names(healthy)
    broken = healthy / "json" / "0000" / f"{ids[0]}.json"
    broken.write_text("{")
    (healthy / "pcd" / "0000" / f"{ids[1]}.npz").write_bytes(b"not points")
    bad = tmp_path / "put aside"
    before = sorted(healthy.rglob("*"))
    assert main(["data", "check", str(healthy), "--quarantine", str(bad), "--list-only", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"--set data.exclude='{bad / 'ids.txt'}'" in said
    assert sorted(healthy.rglob("*")) == before
    assert (bad / "missing.tsv").read_text() == f"id\tlacks\n0000/{ids[0]}\ttext\n0000/{ids[1]}\tpoint_cloud\n"
    code, found = checked(capsys, healthy, "--set", f"data.exclude={bad / 'ids.txt'}")
    assert (code, found["stages"]["1"]["of"], found["stages"]["1"]["ids"]) == (0, 4, 4)
    code, found = checked(capsys, healthy, "--quarantine", bad)
    assert found["quarantine"] == {"folder": str(bad), "moved": 2, "listed": 0, "ids": 2}
    assert (bad / "json" / "0000" / broken.name).read_text() == "{"
    code, found = checked(capsys, healthy, "--quarantine", bad)
    assert (code, list(by_code(found)), found["quarantine"]["moved"]) == (0, ["E411"], 0)
    assert len((bad / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_quarantine_that_cannot_be(healthy, capsys):
    for words, code in ((["--quarantine", str(healthy / "json" / "bad")], "E105"), (["--list-only"], "E105")):
        assert main(["data", "check", str(healthy), *words, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert not (healthy / "json" / "bad").exists()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """So many programs that building them takes seconds."""
    out = tmp_path / "many"
    assert main(["data", "synth", "--count", "120", "--out", str(out), "--quiet"]) == 0
    settle(out)
    return out


def known(index: Path) -> int:
    """Outcomes that an index holds."""
    files = list(index.glob("*.sqlite"))
    if not files:
        return 0
    try:
        with sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True, timeout=5) as connection:
            return connection.execute("SELECT COUNT(*) FROM items WHERE kind = 4").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_an_interrupted_deep_check_goes_on(many, tmp_path, capsys, how):
    index = tmp_path / "index"
    words = ["data", "check", str(many), "--deep", "--workers", "1", "--set", f"data.index={index}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cadmllm", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs have it ignored
    )
    deadline = time.monotonic() + 100
    while not known(index) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -9)
    assert "Traceback" not in said
    assert ("the same command goes on" in said) == (how is signal.SIGINT)
    before = known(index)
    assert 0 < before < 120
    code, found = checked(capsys, many, "--deep", "--set", f"data.index={index}")
    assert code == 0
    assert found["deep"]["known"] == before
    assert found["deep"]["built"] == 120 - before
    assert found["deep"]["verdicts"] == {"OK": 120}


def test_nothing_to_build(healthy, capsys):
    shutil.rmtree(healthy / "json")
    code, found = checked(capsys, healthy, "--deep")
    assert code == 1
    assert found["deep"] == {"built": 0, "known": 0, "verdicts": {}, "compared": 0}


def test_nothing_moves_while_the_set_grows(healthy, tmp_path, capsys, monkeypatch):
    from cadmllm.corpus import growth
    from cadmllm.corpus.facts import Flaw

    (healthy / "json" / "0000" / f"{names(healthy)[0]}.json").write_text("{")
    flaw = Flaw("E423", "warn", str(healthy / "json"), "it grows")
    monkeypatch.setattr(growth, "grown", lambda before, folders: [flaw])
    assert main(["data", "check", str(healthy), "--quarantine", str(tmp_path / "bad"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E423"
    assert not (tmp_path / "bad").exists()
    assert len(names(healthy)) == 6
    _, found = checked(capsys, healthy, "--quarantine", tmp_path / "bad", "--list-only")
    assert found["quarantine"]["listed"] == 1
    assert "E423" in by_code(found)
