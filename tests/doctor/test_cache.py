"""What was found well is remembered under everything that it depends on."""

from __future__ import annotations

import json

import pytest

from cadmllm.doctor.cache import KEPT, Cache, default_path, file_key


def test_an_answer_counts_for_its_key_alone(tmp_path):
    path = tmp_path / "new" / "doctor.json"
    Cache(path).put("torch", "2.13", 7, answer={"cuda": None})
    assert Cache(path).get("torch", "2.13", 7) == {"cuda": None}
    assert Cache(path).get("torch", "2.13", 8) is None
    assert Cache(path).get("other", "2.13", 7) is None
    assert Cache(path, fresh=True).get("torch", "2.13", 7) is None
    assert [p.name for p in path.parent.iterdir()] == ["doctor.json"]


def test_the_oldest_go(tmp_path):
    cache = Cache(tmp_path / "doctor.json")
    for number in range(KEPT + 3):
        cache.put("x", number, answer=number)
    again = Cache(cache.path)
    assert [again.get("x", number) for number in (0, 2, 3, KEPT + 2)] == [None, None, 3, KEPT + 2]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', "\x00\xff"])
def test_a_file_that_is_none_counts_as_empty(tmp_path, text):
    path = tmp_path / "doctor.json"
    path.write_text(text, encoding="latin-1")
    cache = Cache(path)
    assert cache.get("x", 1) is None
    cache.put("x", 1, answer=2)
    assert json.loads(path.read_text())["x"]
    assert Cache(path).get("x", 1) == 2


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "doctor.json")
    cache.put("x", 1, answer=2)
    assert cache.get("x", 1) == 2
    assert Cache(cache.path).get("x", 1) is None


def test_where_it_lies():
    assert str(default_path({"XDG_CACHE_HOME": "/c"})) == "/c/cadmllm/doctor.json"
    assert default_path({"XDG_CACHE_HOME": "relative"}).parent.parent.name == ".cache"


def test_a_file_that_changes_has_another_key(tmp_path):
    path = tmp_path / "a"
    keys = {file_key(path)}
    for text in ("1", "22"):
        path.write_text(text)
        keys.add(file_key(path))
    assert len(keys) == 3
