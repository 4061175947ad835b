"""The index at the size of Omni-CAD: what scanning, checking again and opening cost.

    python benchmarks/index.py                  # a tree of 50,000 small files, and an index of 453,000 models made of rows alone
    python benchmarks/index.py --files 5000 --models 20000     # a quick look

Each measurement runs in a process of its own, whose peak memory is its own, too. The tree holds generated programs, captions,
clouds of 64 points and one small view an id, copied under other names (3 files an id); the big index gets the rows that a
scan of such a tree would have written (the files are not there), with captions of Omni-CAD's length. Files that are copied
are in the system's cache: a cold disk or a Windows drive costs more, which `data check` measures.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARD = 10_000


def main() -> None:
    """Run the measurements and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--models", type=int, default=453_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(WORK[args.work](args)))
        return
    with tempfile.TemporaryDirectory(prefix="cadmllm-index-") as folder:
        rows = [run(name, args, folder) for name in ("tree", "scan", "scan_again", "open_tree", "one_changed")]
        rows += [run(name, args, folder) for name in ("rows", "open_rows", "samples", "judged", "counted", "divided")]
    print("| step | seconds | peak memory, MB | |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['seconds']:.2f} | {row['peak_mb']:.0f} | {row['note']} |")


def run(name: str, args: argparse.Namespace, folder: str) -> dict:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--work", name, "--folder", folder]
    command += ["--files", str(args.files), "--models", str(args.models), "--workers", str(args.workers)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def row(what: str, seconds: float, note: str = "") -> dict:
    """A line of the table; memory includes that of the largest child process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    mapped = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    note = f"{note}; {int(mapped.split()[1]) / 1024:.0f} MB of it are pages of files" if note else ""
    return {"what": what, "seconds": seconds, "peak_mb": peak / 1024, "note": note}


def settings_of(args: argparse.Namespace, name: str):
    """The data settings of one of the two data sets."""
    from cadmllm.settings import DataSettings

    return DataSettings(root=args.folder / name, index=args.folder / "index")


def tree(args: argparse.Namespace) -> dict:
    """Make the tree of small files."""
    import numpy as np
    from PIL import Image

    from cadmllm.corpus.synth import write_dataset

    start = time.perf_counter()
    root = args.folder / "tree"
    write_dataset(args.folder / "parts", 200, 0)
    sources = sorted((args.folder / "parts/json/0000").iterdir())
    generator = np.random.default_rng(0)
    np.savez(args.folder / "cloud.npz", points=generator.uniform(-1, 1, (64, 3)), normals=generator.normal(size=(64, 3)))
    pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(args.folder / "view.png")
    ids = [f"{k // SHARD:04d}/{k:08d}" for k in range(args.files // 3)]
    for shard in sorted({id_[:4] for id_ in ids}):
        for kind in ("json", "pcd", "img"):
            (root / kind / shard).mkdir(parents=True)
        (root / "txt").mkdir(exist_ok=True)
        entries = [{"id": id_, "text caption": f"A part, number {id_}."} for id_ in ids if id_.startswith(shard)]
        (root / "txt" / f"{shard}.json").write_text(json.dumps(entries))
    for k, id_ in enumerate(ids):
        shutil.copyfile(sources[k % len(sources)], root / f"json/{id_}.json")
        shutil.copyfile(args.folder / "cloud.npz", root / f"pcd/{id_}.npz")
        shutil.copyfile(args.folder / "view.png", root / f"img/{id_}_000.png")
    time.sleep(2.5)  # files of this moment are looked at twice: let them grow older
    return row(f"making {3 * len(ids):,} files", time.perf_counter() - start)


def _scanned(args: argparse.Namespace, what: str) -> dict:
    from cadmllm.corpus.scan import open_index

    start = time.perf_counter()
    index = open_index(settings_of(args, "tree"), contents=True, workers=args.workers)
    seconds = time.perf_counter() - start
    return row(what, seconds, f"index {index.path.stat().st_size / 2**20:.0f} MB, {args.workers} workers")


def scan(args: argparse.Namespace) -> dict:
    """The first full scan: everything is opened."""
    return _scanned(args, "first scan (every file read)")


def scan_again(args: argparse.Namespace) -> dict:
    """The second: every file is looked at, none opened."""
    return _scanned(args, "second scan (nothing changed)")


def one_changed(args: argparse.Namespace) -> dict:
    """A check after one file changed."""
    source = args.folder / "parts/json/0000"
    shutil.copyfile(sorted(source.iterdir())[7], args.folder / "tree/json/0000/00000000.json")
    return _scanned(args, "scan after one file changed")


def _opened(args: argparse.Namespace, name: str, what: str) -> dict:
    import cadmllm.corpus.layout  # numpy and pydantic are loaded before the clock runs

    start = time.perf_counter()
    dataset = cadmllm.corpus.layout.open_dataset(settings_of(args, name))
    train, val = dataset.split()
    good, bad = dataset.usable(train, 2048)
    seconds = time.perf_counter() - start
    return row(what, seconds, f"{len(good):,} to train on, {len(val):,} held out, {len(bad):,} left out")


def open_tree(args: argparse.Namespace) -> dict:
    """What `train` does at its start."""
    return _opened(args, "tree", "opening for training, the tree")


def rows(args: argparse.Namespace) -> dict:
    """Make the index of the whole of Omni-CAD: the rows that scanning it would give."""
    from cadmllm.corpus import roster
    from cadmllm.corpus.examine import VERSION
    from cadmllm.corpus.facts import Kind
    from cadmllm.corpus.folders import locate
    from cadmllm.corpus.index import open_store
    from cadmllm.corpus.scan import open_index

    start = time.perf_counter()
    root = args.folder / "omni"
    ids = [f"{k // SHARD:04d}/{k:08d}_00001" for k in range(args.models)]
    shards = sorted({id_[:4] for id_ in ids})
    for shard in shards:
        for kind in ("json", "pcd", "img"):
            (root / kind / shard).mkdir(parents=True)
        (root / "txt").mkdir(exist_ok=True)
        caption = "Generate a CAD model with a rectangular base plate, a cylindrical boss at its centre and four through holes."
        entries = [{"id": id_, "text caption": caption} for id_ in ids if id_.startswith(shard)]
        (root / "txt" / f"{shard}.json").write_text(json.dumps(entries))
    time.sleep(2.5)
    data = settings_of(args, "omni")
    index = open_index(data, contents=False)
    values = _values(args)
    marks = random.Random(0)
    ends = "|".join(f"_{k:03d}.png" for k in range(8))
    stamp = "31234:1700000000000000000"
    with index.writing() as db:
        for kind, facts in values.items():
            length = 37 if kind is Kind.PROGRAM else None
            place = {Kind.PROGRAM: "json/{}.json", Kind.CLOUD: "pcd/{}.npz"}.get(kind)
            items = (
                (kind, id_, f"{root}/{place.format(id_)}" if place else ends, stamp, 1, None, length, _own(facts, kind, marks))
                for id_ in ids
            )
            db.executemany("INSERT OR REPLACE INTO items VALUES(?, ?, ?, ?, ?, ?, ?, ?)", items)
    begin = time.perf_counter()
    roster.make(index)
    making = time.perf_counter() - begin
    assert open_store(data, locate(data)).meta("examiner") == VERSION
    note = f"index {index.path.stat().st_size / 2**20:.0f} MB; its columns made in {making:.1f} s"
    return row(f"making an index of {args.models:,} models", time.perf_counter() - start, note)


def _own(facts: dict, kind: int, marks: random.Random) -> str:
    """Facts as stored; a program has a digest and signatures of its own, one in fifty those of another."""
    if "near" in facts:
        number = marks.randrange(400_000) if marks.random() < 0.02 else marks.getrandbits(60)
        made = [f"{(number * (2 * k + 3)) % 2**64:016x}" for k in range(len(facts["near"]))]
        facts = facts | {"near": made, "digest": made[0]}
    return json.dumps(facts, separators=(",", ":"))


def _values(args: argparse.Namespace) -> dict:
    """What examining a program, a cloud and views of the tree gave."""
    from cadmllm.corpus.facts import Kind
    from cadmllm.corpus.folders import locate
    from cadmllm.corpus.index import open_store

    data = settings_of(args, "tree")
    index = open_store(data, locate(data))
    kinds = (Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS)
    return {kind: next(index.rows(kind)).values for kind in kinds}


def open_rows(args: argparse.Namespace) -> dict:
    """What `train` does at its start, at full size."""
    return _opened(args, "omni", f"opening for training, {args.models:,} models")


def samples(args: argparse.Namespace) -> dict:
    """What an id costs once the data set is open: its modalities, captions and paths, without its files."""
    from cadmllm.corpus.layout import open_dataset

    dataset = open_dataset(settings_of(args, "omni"))
    ids = random.Random(0).sample(range(len(dataset.ids)), min(20_000, len(dataset.ids)))
    start = time.perf_counter()
    for at in ids:
        id_ = dataset.ids[at]
        dataset.modalities(id_), dataset.captions(id_), dataset.cloud_path(id_), dataset.view_count(id_)
    seconds = time.perf_counter() - start
    return row(f"looking up {len(ids):,} random ids", seconds, f"{seconds / len(ids) * 1e6:.0f} us an id")


def judged(args: argparse.Namespace) -> dict:
    """What `data check` does after its scan."""
    from cadmllm.console import Console
    from cadmllm.corpus import audit
    from cadmllm.corpus.scan import open_index
    from cadmllm.settings import Settings

    audit.open_index = lambda data, **more: open_index(data, contents=False)  # the files are not there
    start = time.perf_counter()
    found = audit.audit(Settings(data=settings_of(args, "omni")), stage=3, deep=False, workers=1, console=Console(quiet=True))
    return row("data check, after its scan", time.perf_counter() - start, f"{found.stages[3].ids:,} ids can show all of stage 3")


def counted(args: argparse.Namespace) -> dict:
    """`data stats`, without the picture."""
    from cadmllm.corpus.folders import locate
    from cadmllm.corpus.index import open_store
    from cadmllm.corpus.stats import gather
    from cadmllm.settings import Settings

    data = settings_of(args, "omni")
    start = time.perf_counter()
    gather(open_store(data, locate(data)), Settings(data=data))
    return row("data stats", time.perf_counter() - start, "the figures, without the picture")


def divided(args: argparse.Namespace) -> dict:
    """`data split`, from the index to the lists."""
    from cadmllm.console import Console
    from cadmllm.corpus.adopt import split_dataset
    from cadmllm.corpus.split import Rules

    start = time.perf_counter()
    found = split_dataset(settings_of(args, "omni"), Rules(), None, False, 1, Console(quiet=True))
    sides = ", ".join(f"{name} {len(ids):,}" for name, ids in found.lists().items())
    return row("data split", time.perf_counter() - start, sides)


STEPS = (tree, scan, scan_again, one_changed, open_tree, rows, open_rows, samples, judged, counted, divided)
WORK = {step.__name__: step for step in STEPS}

if __name__ == "__main__":
    main()
