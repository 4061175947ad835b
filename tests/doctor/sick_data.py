"""Sick data sets: missing, elsewhere, broken, too long, growing, with other features, and what the settings make of them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import broken
import broken_places
import broken_texts
from made_features import encoded, made_encoders
from scene import Case, Scene

from cadmllm.corpus import growth, index
from cadmllm.corpus.fit import FRAME
from cadmllm.corpus.layout import open_dataset

DATA = ("data",)  # the group
TABLE = {entry.name: entry for entry in (*broken.PROGRAMS, *broken_texts.TEXTS, *broken_places.PLACES, *broken_places.DEEP)}


def from_table(name: str, code: str, level: str = "warn", only: tuple[str, ...] = DATA, sample: bool = False) -> Case:
    """A case of the data check's own table of broken sets (tests/corpus/broken*.py), whose codes it must share."""
    assert code in TABLE[name].codes

    def spoil(scene: Scene) -> None:
        shutil.rmtree(scene.set)
        broken.healthy(scene.set)
        broken.beside(scene.folder / "outside")
        TABLE[name].make(scene.set)

    return Case(f"data-{name.replace(' ', '-').replace(',', '')}", code, spoil, only, level, sample)


def captions(scene: Scene, change: Callable[[list[dict]], object]) -> None:
    """Edit the caption file."""
    (file,) = (scene.set / "txt").iterdir()
    entries = json.loads(file.read_text())
    change(entries)
    file.write_text(json.dumps(entries))


def programs(scene: Scene) -> list[Path]:
    return sorted((scene.set / "json").rglob("*.json"))


def without(*names: str) -> Callable[[Scene], None]:
    """Folders of the set are not there."""

    def spoil(scene: Scene) -> None:
        for name in names:
            shutil.rmtree(scene.set / name)

    return spoil


def setting(**values: object) -> Callable[[Scene], None]:
    """Settings alone are wrong: `setting(train__max_seq_length=200)`."""
    return lambda scene: scene.values.update({key.replace("__", "."): value for key, value in values.items()})


def no_set(scene: Scene) -> None:
    shutil.rmtree(scene.set)


def empty(scene: Scene) -> None:
    no_set(scene)
    for name in ("json", "txt", "img", "pcd"):
        (scene.set / name).mkdir(parents=True)


def too_high(scene: Scene) -> None:
    scene.values["data.root"] = str(scene.folder)


def too_deep(scene: Scene) -> None:
    scene.values["data.root"] = str(scene.set / "json")


def few_clouds(scene: Scene) -> None:
    for cloud in sorted((scene.set / "pcd").rglob("*.npz"))[2:]:
        cloud.unlink()


def half_truncated(scene: Scene) -> None:
    for path in programs(scene)[::2]:
        path.write_bytes(path.read_bytes()[:-200])


def all_useless(scene: Scene) -> None:
    for path in programs(scene):
        path.write_text("{}")


def blank(scene: Scene) -> None:
    captions(scene, lambda entries: [entry.update({"text caption": "  \n"}) for entry in entries[:5]])


def most_captions_gone(scene: Scene) -> None:
    def cut(entries: list[dict]) -> None:
        del entries[8:]

    captions(scene, cut)


def half_the_programs_gone(scene: Scene) -> None:
    for path in programs(scene)[6:]:
        path.unlink()


def long_captions(scene: Scene) -> None:
    captions(scene, lambda entries: [entry.update({"text caption": "a long story " * 700}) for entry in entries])


def targets(scene: Scene, share: float) -> int:
    """A length that this share of the targets does not exceed; text stage alone."""
    scene.stages = (1,)
    dataset = open_dataset(scene.settings().data)
    lengths = sorted(dataset.lengths(dataset.split()[0]).tolist())
    return int(lengths[round(share * (len(lengths) - 1))])


def all_too_long(scene: Scene) -> None:
    scene.values["train.max_seq_length"] = targets(scene, 0.0) - 1 + FRAME


def many_too_long(scene: Scene) -> None:
    scene.values["train.max_seq_length"] = targets(scene, 0.5) + FRAME


def listed(scene: Scene, key: str, *ids: str) -> None:
    (scene.folder / "list.txt").write_text("\n".join(ids) + "\n")
    scene.values[f"data.{key}"] = str(scene.folder / "list.txt")


def known_and_unknown(scene: Scene) -> None:
    listed(scene, "val", f"0000/{programs(scene)[0].stem}", "0000/nobody")


def unknown_alone(scene: Scene) -> None:
    listed(scene, "train", "0000/nobody")


def everything_held_out(scene: Scene) -> None:
    listed(scene, "val", *(f"0000/{path.stem}" for path in programs(scene)))


def list_not_there(scene: Scene) -> None:
    scene.values["data.exclude"] = str(scene.folder / "gone.txt")


def nobody_held_out(scene: Scene) -> None:
    (scene.set / "val.txt").unlink(missing_ok=True)
    scene.values |= {"data.val_share": 0.0, "train.val_steps": 5, "stages.1.patience": 2}


def large_window(scene: Scene) -> None:
    scene.values |= {"train.batch_size": 8, "train.accumulation": 8}


def growing(scene: Scene) -> None:
    """A program arrives between the two looks."""
    second = growth.grown

    def grown(before, folders, wait):
        shutil.copy(programs(scene)[0], scene.set / "json" / "0000" / "99999999.json")
        return second(before, folders, wait)

    scene.monkeypatch.setattr(growth, "grown", grown)


def download_going_on(scene: Scene) -> None:
    (scene.set / "pcd" / "0000" / "00000099.npz.part").write_bytes(b"x")


def index_of_nobody(scene: Scene) -> None:
    """A read-only cache folder (tests run as root: by a fault)."""
    (scene.folder / "index").mkdir()
    scene.values["data.index"] = str(scene.folder / "index")
    prepared = index._prepared

    def refused(path: Path) -> list[str]:
        if path.parent == scene.folder / "index":
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return prepared(path)

    scene.monkeypatch.setattr(index, "_prepared", refused)


def index_nowhere(scene: Scene) -> None:
    def refused(path: Path) -> list[str]:
        raise OSError(28, "No space left on device")

    scene.monkeypatch.setattr(index, "_prepared", refused)


def index_damaged(scene: Scene) -> None:
    scene.values["data.index"] = str(scene.folder / "index")
    found = open_dataset(scene.settings().data).index
    found.close()
    for path in (scene.folder / "index").iterdir():
        path.unlink()
    found.path.write_bytes(b"not a database at all, " * 1000)


def index_of_another_version(scene: Scene) -> None:
    scene.values["data.index"] = str(scene.folder / "index")
    found = open_dataset(scene.settings().data).index
    found.db.execute("PRAGMA user_version = 99")
    found.close()


def index_that_was_outrun(scene: Scene) -> None:
    """Programs are cut short in place: their folder does not tell, so the index takes them for what they were."""
    for path in programs(scene):
        os.utime(path.parent, (1, 1))
    open_dataset(scene.settings().data)
    for path in programs(scene):
        path.write_bytes(path.read_bytes()[:-100])


def features_not_there(scene: Scene) -> None:
    scene.values |= {**made_encoders(scene), "data.features": str(scene.folder / "features")}


def features_cut(scene: Scene) -> None:
    encoded(scene)
    shard = next(path for path in sorted((scene.folder / "features" / "points").iterdir()) if path.stem.isdigit())
    shard.write_bytes(shard.read_bytes()[:-100])


def features_stale(scene: Scene) -> None:
    encoded(scene)
    first, second = sorted((scene.set / "pcd").rglob("*.npz"))[:2]
    second.write_bytes(first.read_bytes())


def features_of_fewer(scene: Scene) -> None:
    encoded(scene, ids=8)


def features_of_other_settings(scene: Scene) -> None:
    encoded(scene)
    scene.values["model.point_count"] = 100


def features_of_another_encoder(scene: Scene) -> None:
    encoded(scene)
    made_encoders(scene, seed=1)


def features_of_a_trained_encoder(scene: Scene) -> None:
    encoded(scene)
    scene.values["model.train_encoders"] = True


def clouds_useless(scene: Scene) -> None:
    for cloud in (scene.set / "pcd").rglob("*.npz"):
        cloud.write_bytes(cloud.read_bytes()[:300])


CASES = (
    Case("data-folder-missing", "E401", no_set, DATA, sample=True),
    Case("data-folder-empty", "E401", empty, DATA),
    Case("data-root-one-level-too-high", "E401", too_high, DATA),
    Case("data-root-one-level-too-deep", "E401", too_deep, DATA),
    Case("data-no-captions", "E401", without("txt"), DATA),
    Case("data-no-clouds-for-stage-2", "E406", without("pcd"), DATA, sample=True),
    Case("data-no-views-for-stage-3", "E406", without("img"), DATA),
    Case("data-clouds-still-arriving", "E466", few_clouds, DATA, "warn"),
    Case("data-half-of-the-programs-truncated", "E422", half_truncated, DATA, "warn"),
    Case("data-no-program-of-use", "E406", all_useless, DATA),
    Case("data-blank-captions", "E408", blank, DATA, "warn"),
    Case("data-captions-of-a-third-missing", "E412", most_captions_gone, DATA, "warn"),
    Case("data-programs-of-half-missing", "E411", half_the_programs_gone, DATA, "warn"),
    Case("data-all-targets-too-long", "E406", all_too_long, ("sequences",)),
    Case("data-many-targets-too-long", "E464", many_too_long, ("sequences",), "warn", sample=True),
    Case("data-no-room-for-a-target", "E606", setting(train__max_seq_length=512, model__point_tokens=500), ("sequences",)),
    Case("data-long-captions", "E451", long_captions, ("sequences",), "warn"),
    Case("data-val-list-with-unknown-ids", "E407", known_and_unknown, DATA, "warn"),
    Case("data-train-list-of-unknown-ids", "E407", unknown_alone, DATA),
    Case("data-list-not-there", "E407", list_not_there, DATA),
    Case("data-nobody-held-out", "E105", nobody_held_out, DATA, "warn"),
    Case("data-fewer-samples-than-a-step", "E465", large_window, DATA, "warn"),
    Case("data-growing", "E423", growing, DATA, "warn"),
    Case("data-download-going-on", "E422", download_going_on, DATA, "warn"),
    Case("data-index-folder-read-only", "E482", index_of_nobody, DATA, "warn"),
    Case("data-index-nowhere", "E482", index_nowhere, DATA),
    Case("data-index-damaged", "E482", index_damaged, DATA, "warn"),
    Case("data-index-of-another-version", "E482", index_of_another_version, DATA, "warn"),
    Case("data-index-that-was-outrun", "E422", index_that_was_outrun, ("data-files",), "warn"),
    Case("features-not-there", "E471", features_not_there, ("features",)),
    Case("features-cut-short", "E471", features_cut, ("features",)),
    Case("features-of-fewer-ids", "E471", features_of_fewer, ("features",)),
    Case("features-of-a-cloud-that-changed", "E470", features_stale, ("features",)),
    Case("features-of-other-settings", "E470", features_of_other_settings, ("features",)),
    Case("features-of-another-encoder", "E470", features_of_another_encoder, ("features",)),
    Case("features-of-a-trained-encoder", "E472", features_of_a_trained_encoder, ("features",)),
    Case("data-files-clouds-of-no-use", "E406", clouds_useless, ("data-files",)),
    from_table("a program that is a web page", "E424"),
    from_table("a program in Latin-1", "E410"),
    from_table("a program of another schema", "E203"),
    from_table("an open loop", "E207"),
    from_table("a caption file that is a Git LFS pointer", "E424"),
    from_table("unsafe ids", "E403"),
    from_table("a list with unsafe ids", "E403"),
    from_table("a list that is a pipe", "E407", "fail"),
    Case("data-everything-held-out", "E406", everything_held_out, DATA),
    from_table("a program that is a link out", "E419"),
    from_table("a folder of programs that is a link out", "E419", "fail"),
    from_table("ids that differ in letter case", "E418"),
    from_table("a cloud in two formats", "E417"),
    from_table("foreign files", "E415"),
    from_table("a cloud of another part", "E462", only=("data-files",)),
    from_table("a recorded box that disagrees", "E461", only=("data-files",)),
    from_table("a program that leaves nothing", "E302", only=("data-files",)),
)
