"""Batches with a model that answers at once; the real one is asked in tests/commands/test_infer_batch.py."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cadmllm.cad.kernel import Verdict
from cadmllm.console import Console
from cadmllm.errors import CadmllmError, Exit
from cadmllm.infer.batch import BatchReport, run_batch
from cadmllm.infer.request import Request
from cadmllm.models.stages import sha256
from cadmllm.settings import Settings


class FakePart:
    """Writes the record and a file that tells what it was answered beside."""

    workshop: Any = None

    def __init__(self, record: dict[str, Any], beside: list[str]) -> None:
        self.record, self.beside = record, beside

    def save(self, folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "program.txt").write_text(" ".join(self.beside))
        self.record["files"] = ["program.txt", "record.json"]
        (folder / "record.json").write_text(json.dumps(self.record))
        return self.record["files"]


class FakeModel:
    """`CadModel` as a batch uses it. A prompt with 'bad' has inputs that cannot be read, 'no' makes no solid, 'nan' stops all."""

    def __init__(self, **infer: Any) -> None:
        self.settings = Settings()
        for name, value in ({"batch_size": 3} | infer).items():
            setattr(self.settings.infer, name, value)
        self.described = {"path": "somewhere", "sha256": "c" * 64, "base": {"llm": "x"}}
        self.groups: list[list[str]] = []
        self.stop_at = ""

    def answer(self, requests: Iterable[Request]) -> Iterator[FakePart | CadmllmError]:
        group = list(requests)
        self.groups.append([request.name for request in group])
        if any(self.stop_at == request.name for request in group):
            raise KeyboardInterrupt
        if any("nan" in (request.text or "") for request in group):
            raise CadmllmError("E704", "the scores are not finite", "dtype=float32")
        for request in group:
            yield self._answer(request, self.groups[-1])

    def _answer(self, request: Request, beside: list[str]) -> FakePart | CadmllmError:
        if "bad" in (request.text or ""):
            return CadmllmError("E405", "no picture", "another")
        seed = self.settings.infer.seed if request.seed is None else request.seed
        record = {
            "name": request.name,
            "prompt": request.text,
            "inputs": [{"sha256": sha256(path)} for path in (*request.points, *request.images)],
            "checkpoint": self.described,
            "settings": {"seed": seed, "temperature": self.settings.infer.temperature, "units": self.settings.infer.units},
            "verdict": "INVALID" if "no" in (request.text or "") else "OK",
        }
        return FakePart(record, beside)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "parts.jsonl", *[{"id": f"p{k}", "prompt": f"part {k}"} for k in range(8)])


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(cad: FakeModel, file: Path, out: Path | None = None) -> tuple[BatchReport, str]:
    err = io.StringIO()
    report = run_batch(cad, file, out or file.parent / "out", Console(err=err))  # ty: ignore[invalid-argument-type]
    return report, err.getvalue()


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def everything(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_line_has_a_folder_and_a_record(file: Path, tmp_path: Path) -> None:
    cad = FakeModel()
    report, _ = run(cad, file)
    assert cad.groups == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6", "p7"]]
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"p{k}" for k in range(8)]
    assert rows(tmp_path / "out")[3]["request"] == {"prompt": "part 3"}
    assert (tmp_path / "out" / "p3" / "record.json").is_file()
    assert (report.requests, report.answered, report.kept, report.verdicts) == (8, 8, 0, {"OK": 8})
    assert report.exit_code is Exit.DONE


def test_the_same_command_again_does_nothing(file: Path) -> None:
    run(FakeModel(), file)
    cad = FakeModel()
    report, said = run(cad, file)
    assert cad.groups == []
    assert (report.answered, report.kept, report.verdicts) == (0, 8, {"OK": 8})
    assert "8 of 8 are done already" in said


def test_candidates_share_the_width(file: Path) -> None:
    cad = FakeModel(candidates=2, batch_size=5)
    run(cad, file)
    assert {len(group) for group in cad.groups} == {2}


@pytest.mark.parametrize("done", range(9))
def test_a_killed_run_ends_in_the_same_bytes(file: Path, tmp_path: Path, done: int) -> None:
    run(FakeModel(), file, tmp_path / "whole")
    out = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", out)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    torn = lines[done][:-5] if done < 8 else b""
    (out / "results.jsonl").write_bytes(b"".join(lines[:done]) + torn)
    for k in range(done + 1, 8):
        shutil.rmtree(out / f"p{k}")
    cad = FakeModel()
    report, said = run(cad, file, out)
    assert everything(out) == everything(tmp_path / "whole")
    assert (report.kept, report.answered) == (done, 8 - done)
    assert all(f"p{k}" not in str(cad.groups) for k in range(done // 3 * 3))  # whole groups that are done are not answered
    assert ("half-written" in said) == (done < 8)


def test_an_interrupted_run_keeps_what_was_answered(file: Path, tmp_path: Path) -> None:
    cad = FakeModel()
    cad.stop_at = "p7"
    err = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run_batch(cad, file, tmp_path / "out", Console(err=err))  # ty: ignore[invalid-argument-type]
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"p{k}" for k in range(6)]
    assert "6 of 8 are done: the same command goes on there" in err.getvalue()
    cad = FakeModel()
    run(cad, file)
    assert cad.groups == [["p6", "p7"]]


def test_inputs_that_cannot_be_used_are_records_and_tried_again(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"prompt": "one"}, {"prompt": "bad"}, {"prompt": "no solid"}, {"prompt": "four"})
    report, said = run(FakeModel(), file)
    assert [row.get("verdict", row.get("error", {}).get("code")) for row in rows(tmp_path / "out")] == [
        "OK",
        "E405",
        "INVALID",
        "OK",
    ]
    assert rows(tmp_path / "out")[1]["error"] == {"code": "E405", "message": "no picture", "remedy": "another"}
    assert (report.verdicts, report.errors) == ({"OK": 2, "error": 1, "INVALID": 1}, {"E405": 1})
    assert report.exit_code is Exit.USER
    assert "line 2 (000002): E405 no picture" in said
    cad = FakeModel()
    report, said = run(cad, file)
    assert cad.groups == [["000002"]]
    assert "1 could not be answered before and are tried again" in said
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"{k:06d}" for k in range(1, 5)]
    assert report.exit_code is Exit.USER


def test_an_error_of_one_request_stops_neither_its_neighbours_nor_the_run(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"prompt": "one"}, {"prompt": "nan"}, {"prompt": "three"}, {"prompt": "nan"})
    report, _ = run(FakeModel(), file)
    assert report.verdicts == {"OK": 2, "error": 2}
    assert report.errors == {"E704": 2}


def test_an_error_of_all_requests_ends_the_run(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"prompt": "nan 1"}, {"prompt": "nan 2"})
    with pytest.raises(CadmllmError, match="not finite"):
        run(FakeModel(), file)
    assert rows(tmp_path / "out") == []


def test_what_has_changed_is_answered_anew_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    lines = [{"id": f"p{k}", "prompt": f"part {k}", "images": ["a.png"] if k == 4 else []} for k in range(6)]
    file = write(tmp_path / "b.jsonl", *lines)
    run(FakeModel(), file)
    (tmp_path / "a.png").write_bytes(b"2")
    (tmp_path / "out" / "p0" / "program.txt").unlink()
    lines[1] = {"id": "p1", "prompt": "another"}
    lines.insert(2, {"id": "new", "prompt": "new"})
    del lines[4]
    cad = FakeModel()
    report, said = run(cad, write(file, *lines))
    assert "2 have changed since" in said
    assert "1 lack files" in said
    assert "records of ids that b.jsonl does not have, at its end: 1" in said
    assert cad.groups == [["p0", "p1", "new"], ["p4"]]
    assert [row["id"] for row in rows(tmp_path / "out")] == ["p0", "p1", "new", "p2", "p4", "p5", "p3"]
    assert rows(tmp_path / "out")[1]["prompt"] == "another"
    assert (report.kept, report.answered) == (2, 4)


def test_other_settings_and_another_checkpoint_are_answered_anew_and_said(file: Path, tmp_path: Path) -> None:
    run(FakeModel(), file)
    report, said = run(FakeModel(temperature=0.5), file)
    assert report.answered == 8
    assert "8 were answered by another checkpoint or with other settings" in said
    assert len(rows(tmp_path / "out")) == 8
    other = FakeModel(temperature=0.5)
    other.described = {**other.described, "sha256": "d" * 64}
    assert run(other, file)[0].answered == 8
    moved = FakeModel(temperature=0.5)
    moved.described = {**other.described, "path": "elsewhere"}
    assert run(moved, file)[0].answered == 0
    wider = FakeModel(temperature=0.5, batch_size=8)
    wider.described = other.described
    assert run(wider, file)[0].answered == 0


def test_old_records_stay_until_there_are_new_ones(file: Path, tmp_path: Path) -> None:
    run(FakeModel(), file)
    cad = FakeModel(temperature=0.5)
    cad.stop_at = "p3"
    with pytest.raises(KeyboardInterrupt):
        run(cad, file)
    again = FakeModel()
    report, said = run(again, file)
    assert "5 of 8 are done already" in said
    assert report.answered == 3


def test_a_lines_own_seed_and_size_are_its_own(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"prompt": "a", "seed": 5}, {"prompt": "b"})
    run(FakeModel(), file)
    assert [row["settings"]["seed"] for row in rows(tmp_path / "out")] == [5, 0]
    assert run(FakeModel(seed=9), file)[0].answered == 1


def test_more_time_is_another_chance_for_what_made_no_solid(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"prompt": "a"}, {"prompt": "no"})
    run(FakeModel(), file)
    cad = FakeModel()
    assert run(cad, file)[0].answered == 0
    cad.settings.kernel.timeout = 120.0
    assert run(cad, file)[0].answered == 1
    assert run(cad, file)[0].answered == 0


def test_records_that_others_changed_are_answered_anew(file: Path, tmp_path: Path) -> None:
    run(FakeModel(), file)
    path = tmp_path / "out" / "results.jsonl"
    path.write_text(path.read_text().replace('"verdict"', '"judgement"', 2) + "nonsense\n")
    report, said = run(FakeModel(), file)
    assert report.answered == 2
    assert "were no records and are left out: 1" in said
    assert report.verdicts == {Verdict.OK.value: 8}


def test_only_some_errors_are_said(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", *[{"prompt": f"bad {k}"} for k in range(40)])
    _, said = run(FakeModel(), file)
    assert said.count("E405") == 10
    assert said.count("further lines") == 1


def test_a_bad_file_touches_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "b.jsonl", {"promt": "a"})
    with pytest.raises(CadmllmError, match="did you mean"):
        run(FakeModel(), file)
    assert not (tmp_path / "out").exists()


def test_what_a_kill_left_half_written_goes(file: Path, tmp_path: Path) -> None:
    run(FakeModel(), file)
    before = everything(tmp_path / "out")
    for place in (".cadmllm-a", "p1/.cadmllm-b", "0000/x/.cadmllm-c"):
        folder = tmp_path / "out" / place
        folder.mkdir(parents=True)
        (folder / "model.step").write_text("half")
    (tmp_path / "out" / ".results.abc.jsonl").write_text("half")
    run(FakeModel(), file)
    assert everything(tmp_path / "out") == before
