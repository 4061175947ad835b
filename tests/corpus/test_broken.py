"""Every kind of broken data set is reported under its own code, its healthy rest stays usable, nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from broken import IDS, PROGRAMS, SECRET, Breakage, beside, healthy
from broken_files import CLOUDS, VIEWS
from broken_places import DEEP, PLACES
from broken_texts import TEXTS

from cadmllm.cli import main
from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.sample import join_modalities, load_sample
from cadmllm.errors import CODES, CadmllmError
from cadmllm.settings import DataSettings

KINDS: list[Breakage] = [*PROGRAMS, *TEXTS, *CLOUDS, *VIEWS, *PLACES]
GIVEN = ("--json", "--quiet", "--set", "model.point_count=256")
MODALITIES = frozenset({"text", "point_cloud", "image"})
WHERE = {"seed": 0, "stage": 3, "epoch": 0, "position": 0, "point_count": 64, "views": 2}


class Watch:
    """Which files under a folder Python opens, lists or changes, by its audit events; links are followed."""

    EVENTS = {"open", "os.scandir", "os.listdir", "os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.truncate"}

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple) -> None:
        if not self.folder or event not in self.EVENTS:
            return
        for path in args[: 2 if event in ("os.rename", "os.link") else 1]:
            if isinstance(path, (str, bytes, os.PathLike)):
                real = os.path.realpath(os.fsdecode(path))
                if real.startswith(self.folder):
                    self.seen.append(f"{event} {real}")

    def over(self, folder: Path) -> None:
        self.folder, self.seen = os.path.realpath(folder), []

    def end(self) -> list[str]:
        self.folder = ""
        return self.seen


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> Path:
    """A folder with the healthy set and what lies beside it; both are copied for each kind."""
    folder = tmp_path_factory.mktemp("originals")
    healthy(folder / "set")
    beside(folder / "outside")
    return folder


@pytest.fixture
def root(originals: Path, tmp_path: Path) -> Path:
    """A healthy set; files that nobody may touch lie beside it in `outside`."""
    for name in ("set", "outside"):
        shutil.copytree(originals / name, tmp_path / name)
    return tmp_path / "set"


def nothing_is_forbidden(root: Path) -> bool:
    sealed = root / "sealed"
    sealed.touch(mode=0)
    try:
        return os.access(sealed, os.R_OK)
    finally:
        sealed.unlink()


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of everything in a folder, without following links."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(base, name))
            found[os.path.join(base, name)] = (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns)
    return found


def check(root: Path, capsys, *more: str) -> tuple[int, dict]:
    """Exit code and answer of `data check ROOT --json`; its streams hold nothing that they should not."""
    code = main(["data", "check", str(root), *GIVEN, *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert SECRET not in out + err
    return code, json.loads(out)


def reported(answer: dict) -> set[str]:
    for finding in answer["findings"]:
        assert finding["code"] in CODES
        assert finding["level"] in ("fail", "warn", "info")
        assert finding["count"] >= len(finding["paths"]) > 0
        assert finding["message"]
        assert finding["remedy"]
    return {finding["code"] for finding in answer["findings"]}


def whole(dataset: DataSet, ids: Iterator[str] | set[str]) -> None:
    """These ids can be used for everything that training shows, and give what they hold."""
    for id_ in ids:
        assert dataset.modalities(id_) == MODALITIES, id_
        assert dataset.length(id_) > 0
        sample = load_sample(dataset, id_, "text+point_cloud+image", **WHERE)
        assert sample.combination == "text+point_cloud+image"
        assert len(sample.images) == 2
        assert SECRET not in sample.caption


def test_the_healthy_set_is_healthy(root, capsys):
    code, answer = check(root, capsys)
    assert code == 0
    assert answer["ready"]
    assert answer["findings"] == []
    whole(open_dataset(DataSettings(root=root)), set(IDS))


def test_the_watch_sees_what_it_is_for(root, watch):
    outside = root.parent / "outside"
    (root / "link").symlink_to(outside)
    watch.over(outside)
    (root / "link/json/0000/a.json").read_bytes()
    list(os.scandir(root / "link"))
    (outside / "txt/0000.json").unlink()
    assert [seen.split()[0] for seen in watch.end()] == ["open", "os.scandir", "os.remove"]


def test_every_code_that_a_data_set_can_earn_has_a_kind():
    kinds = [*KINDS, *DEEP]
    assert len({kind.name for kind in kinds}) == len(kinds) >= 140
    elsewhere = {"E210", "E211", "E213"}  # of other files than a data set's
    elsewhere |= {"E406", "E409", "E423"}  # no stage's sample; an output folder; a folder that grows (test_growth)
    of_data = {code for code in CODES if "E201" <= code <= "E214" or "E401" <= code <= "E463"}
    assert of_data - elsewhere == frozenset().union(*(kind.codes for kind in kinds)) & of_data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_is_reported_and_the_rest_stays_usable(kind: Breakage, root, capsys, watch):
    if "without permission" in kind.name and nothing_is_forbidden(root):
        pytest.skip("this user may read everything (root): run it as another one, or without CAP_DAC_OVERRIDE")
    outside = root.parent / "outside"
    kind.make(root)
    before = tree(root.parent)
    watch.over(outside)
    code, answer = check(root, capsys, *kind.given)
    touched = watch.end()
    assert touched == []
    assert kind.codes <= reported(answer), answer["findings"]
    if not kind.codes:
        assert all(finding["level"] == "info" for finding in answer["findings"]), answer["findings"]
    assert (code, answer["ready"]) == ((0, True) if kind.ready else (1, False))
    watch.over(outside)
    still_usable(kind, root)
    assert watch.end() == []
    assert tree(root.parent) == before  # neither the data set nor anything beside it


def still_usable(kind: Breakage, root: Path) -> None:
    """What the kind does not spoil loads; what it does spoil is not offered."""
    lost = {id_ for id_, what in kind.loses.items() if what == "text"}
    if lost == set(IDS):
        with pytest.raises(CadmllmError) as caught:
            open_dataset(DataSettings(root=root))
        assert caught.value.remedy
        return
    dataset = open_dataset(DataSettings(root=root))
    usable, _ = dataset.usable(dataset.ids, 2048)
    assert not lost & set(usable)
    whole(dataset, set(IDS) - kind.loses.keys())
    for id_ in kind.loses.keys() - lost:
        left = MODALITIES - set(kind.loses[id_].split())
        assert id_ in set(usable)
        assert set(load_sample(dataset, id_, join_modalities(left), **WHERE).combination.split("+")) == left
        # what is drawn for a sample does not depend on what a check has found: it goes on without what cannot be read
        assert set(load_sample(dataset, id_, "text+point_cloud+image", **WHERE | {"views": 8}).combination.split("+")) == left


@pytest.mark.parametrize("kind", [*CLOUDS, *VIEWS], ids=lambda kind: kind.name)
def test_training_that_never_looked_goes_on_without_it(kind: Breakage, root, tmp_path_factory):
    """Without a check before, a broken cloud or view is met when it is read, and said."""
    kind.make(root)
    index = tmp_path_factory.mktemp("index")
    dataset = open_dataset(DataSettings(root=root, index=index))
    assert list(dataset.ids) == list(IDS)
    before = len(dataset.problems)
    sample = load_sample(dataset, "0000/a", "text+point_cloud+image", **WHERE | {"views": 8})
    lost = MODALITIES - set(sample.combination.split("+"))
    offered = dataset.modalities("0000/a")  # a pipe is no file: it is not even listed
    if kind.loses:
        assert lost == {kind.loses["0000/a"]}
        met = {problem.code for problem in dataset.problems[before:]}
        assert met == kind.codes or not lost <= offered
    else:
        assert not lost


def test_a_quarantine_leaves_a_set_without_fault(root, capsys):
    damages = (PROGRAMS[2], CLOUDS[14], CLOUDS[-1], VIEWS[1])  # a pipe in place of a cloud among them
    for kind in damages:
        kind.make(root)
    (root / "json/0001/x.json").symlink_to(root.parent / "outside/json/0000/a.json")
    outside = tree(root.parent / "outside")
    bad = root.parent / "set-bad"
    code, answer = check(root, capsys, "--quarantine", str(bad))
    assert any(finding["level"] == "fail" for finding in answer["findings"])
    code, answer = check(root, capsys)
    assert code == 0
    assert [finding for finding in answer["findings"] if finding["level"] == "fail"] == []
    assert tree(root.parent / "outside") == outside
    assert all(not path.is_file() or path.is_symlink() or SECRET not in path.read_text("latin-1") for path in bad.rglob("*"))
    whole(open_dataset(DataSettings(root=root)), {"0000/b", "0000/c", "0001/d", "0001/e"})


def test_nothing_in_the_data_writes_to_the_terminal(root, capsys):
    """Names from files are shown, but never with the characters that command a terminal."""
    colour = "\x1b[31m\x07red"
    (root / f"json/0000/{colour}.json").write_text("{}")
    program = json.loads((root / "json/0000/a.json").read_text())
    program["entities"][colour] = {"type": colour}
    program["sequence"].append({"entity": colour})
    (root / "json/0000/a.json").write_text(json.dumps(program))
    entries = [{"id": colour, "text caption": "x"}, {"id": "0000/b", f"text caption {colour}": 7, "text caption": colour}]
    (root / "txt/0005.json").write_text(json.dumps(entries))
    (root / "pcd/0000/b.npz").unlink()
    (root / "pcd/0000/b.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 3\nproperty {colour} x\nend_header\n")
    np.savez(root / "pcd/0000/c.npz", **{colour: np.zeros((2, 2))})
    (root / "val.txt").write_text(f"0001/e\n{colour}\n")
    assert main(["data", "check", str(root)]) == 0
    out, err = capsys.readouterr()
    assert "red" in out
    assert not [character for character in out + err if not character.isprintable() and character != "\n"]


def test_what_only_the_kernel_finds(root, capsys):
    """All deep kinds at once, as each hurts another id and starting kernels takes seconds."""
    for kind in DEEP:
        kind.make(root)
    before = tree(root.parent)
    code, answer = check(root, capsys, "--deep", "--workers", "1")
    assert code == 0
    found = {finding["code"]: finding for finding in answer["findings"]}
    for kind in DEEP:
        assert kind.codes <= found.keys(), answer["findings"]
    assert all(found[code]["count"] == 1 for kind in DEEP for code in kind.codes)
    assert tree(root.parent) == before


def test_a_second_look_says_the_same(root, capsys):
    for kind in (PROGRAMS[2], TEXTS[1], CLOUDS[1], VIEWS[1]):
        kind.make(root)
    first, second = check(root, capsys), check(root, capsys)
    assert first == second
