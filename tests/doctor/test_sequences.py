"""Targets, prompts and captions that do not fit into train.max_seq_length."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cadmllm.cli import main
from cadmllm.corpus import fit
from cadmllm.corpus.layout import open_dataset
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.sequences import check_sequences
from cadmllm.settings import Settings


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sequences") / "set"
    assert main(["data", "synth", "--count", "60", "--seed", "4", "--out", str(root), "--quiet"]) == 0
    return root


def situation(root: Path, *stages: int, **groups) -> Situation:
    data = {"root": root, "index": root.parent / "index"}
    return Situation(Settings(data=data, **groups), stages or (1,))


def lengths(root: Path) -> np.ndarray:
    dataset = open_dataset(situation(root).needed.data)
    return np.sort(dataset.lengths(dataset.split()[0]))


def test_room_enough_is_no_finding_and_told_by_stage(parts):
    outcome = check_sequences(situation(parts, 1, 3))
    assert outcome.findings == ()
    known = lengths(parts)
    assert outcome.summary == f"stage 3 has room for targets of 1,663 tokens; 0 of {len(known)} have more"
    assert outcome.details[0].startswith("stage 1: room for 1,984 tokens beside 0 features; targets have ")
    assert f"{known[-1]} (longest); 0 are left out" in outcome.details[1]


def test_what_is_left_out_is_counted_with_the_lengths_that_keep_it(parts):
    known = lengths(parts)
    room = int(known[len(known) // 2])
    long = int((known > room).sum())
    (finding,) = check_sequences(situation(parts, 1, train={"max_seq_length": room + fit.FRAME})).findings
    assert (finding.code, finding.level) == ("E464", Level.WARN)
    assert f"{long} of {len(known)} targets ({long / len(known):.1%}) are too long for stage 1" in finding.message
    some, every = map(int, re.findall(r"max_seq_length=(\d+)", finding.remedy))
    assert some <= every
    assert every % 64 == 0
    assert check_sequences(situation(parts, 1, train={"max_seq_length": every})).findings == ()
    kept = check_sequences(situation(parts, 1, train={"max_seq_length": some})).summary
    assert int(kept.split("; ")[1].split()[0]) <= 0.01 * len(known)


def test_less_than_one_percent_is_no_warning(parts):
    known = lengths(parts)
    outcome = check_sequences(situation(parts, 1, train={"max_seq_length": int(known[-1]) + fit.FRAME}))
    assert outcome.findings == ()


def test_all_of_them_too_long(parts):
    shortest = int(lengths(parts)[0])
    (finding,) = check_sequences(situation(parts, 1, train={"max_seq_length": shortest - 1 + fit.FRAME})).findings
    assert (finding.code, finding.level) == ("E406", Level.FAIL)
    assert f"the shortest has {shortest} tokens" in finding.message


def test_features_that_leave_no_room_for_a_supervised_token(parts):
    (finding,) = check_sequences(situation(parts, 1, 3, train={"max_seq_length": 385})).findings
    assert (finding.code, finding.level) == ("E606", Level.FAIL)
    assert "stage 3: a prompt leaves no room" in finding.message
    assert "385 less 321 features" in finding.message
    assert "model.image_tokens" in finding.remedy
    (number,) = re.findall(r"max_seq_length=(\d+)", finding.remedy)
    assert check_sequences(situation(parts, 1, 3, train={"max_seq_length": int(number)})).findings == ()


def test_captions_that_lose_their_end(parts, tmp_path):
    root = Path(shutil.copytree(parts, tmp_path / "set"))
    (file,) = (root / "txt").iterdir()
    entries = json.loads(file.read_text())
    for entry in entries[: len(entries) // 2]:
        entry["text caption"] = "a plate with a hole in it " * 300
    file.write_text(json.dumps(entries))
    most = int(lengths(root)[-1]) + fit.FRAME
    (finding,) = check_sequences(situation(root, 1, train={"max_seq_length": max(most, 512)})).findings
    assert (finding.code, finding.level) == ("E451", Level.WARN)
    looked_at = len(lengths(root))
    cut = int(re.findall(rf"(\d+) of {looked_at} that were looked at", finding.message)[0])
    assert abs(cut - looked_at / 2) < 6
    assert check_sequences(situation(root, 1, train={"max_seq_length": 4096})).findings == ()


def test_generated_parts_are_not_there_yet(tmp_path):
    assert check_sequences(Situation(Settings(data={"root": tmp_path, "synthetic": 5}))).skipped
