"""Rows that outlive a kill."""

from __future__ import annotations

import json

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.evaluate.ledger import Ledger, differences

WHAT = {"version": "1", "settings": {"infer": {"seed": 0}}}


def fill(folder, rows, identity=WHAT):
    with Ledger(folder, identity) as ledger:
        for combination, id_ in rows:
            ledger.add({"combination": combination, "id": id_, "iou": 0.5, "bad": float("nan")})


def test_rows_are_there_again(tmp_path):
    folder = tmp_path / "a" / "b"
    fill(folder, [("text", "0"), ("floor", "0")])
    with Ledger(folder, WHAT) as ledger:
        assert ledger.done == {("text", "0"), ("floor", "0")}
        assert ledger.found == 2
        assert [row["bad"] for row in ledger.rows()] == [None, None]
        ledger.add({"combination": "text", "id": "1"})
        assert len(list(ledger.rows())) == 3


@pytest.mark.parametrize(
    "torn", [b'{"id": "2", "combi', b"\x00\x00\x00\x00", b'{"id": 3, "combination": "text"}\n', b"[]\n", b"\n"]
)
def test_a_torn_end_is_cut_off(tmp_path, torn):
    fill(tmp_path, [("text", "0"), ("text", "1")])
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole + torn)
    with Ledger(tmp_path, WHAT) as ledger:
        assert ledger.done == {("text", "0"), ("text", "1")}
        ledger.add({"combination": "text", "id": "2"})
    lines = (tmp_path / "rows.jsonl").read_bytes()
    assert lines.startswith(whole)
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ["0", "1", "2"]


def test_another_evaluation_is_refused_and_kept(tmp_path):
    fill(tmp_path, [("text", "0")])
    before = (tmp_path / "rows.jsonl").read_bytes()
    with pytest.raises(CadmllmError) as caught:
        Ledger(tmp_path, {"version": "1", "settings": {"infer": {"seed": 7}}})
    assert caught.value.code == "E714"
    assert "settings.infer.seed 0, and now it is 7" in caught.value.message
    assert "--out" in caught.value.remedy
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_rows_of_nobody_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "0", "combination": "text"}\n')
    with pytest.raises(CadmllmError) as caught:
        Ledger(tmp_path, WHAT)
    assert caught.value.code == "E714"
    (tmp_path / "rows.settings.json").write_text("{")
    with pytest.raises(CadmllmError, match="cannot be read"):
        Ledger(tmp_path, WHAT)


def test_two_at_once_are_refused(tmp_path):
    with Ledger(tmp_path, WHAT):
        with pytest.raises(CadmllmError) as caught:
            Ledger(tmp_path, WHAT)
        assert caught.value.code == "E714"
        assert "another process" in caught.value.message
    Ledger(tmp_path, WHAT).close()


def test_kinds_of_rows_lie_side_by_side(tmp_path):
    fill(tmp_path, [("text", "0")])
    with Ledger(tmp_path, {"other": True}, "robustness_rows") as ledger:
        assert not ledger.done


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CadmllmError) as caught:
        Ledger(tmp_path / "out", WHAT)
    assert caught.value.code == "E303"


def test_differences_name_the_place():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2, "d": "x"}}) == ["a.b 1, and now it is 2", "a.d null, and now it is x"]
