"""Stage 3 with and without cached features, and how fast features are made: encoders of the real sizes, random weights.

    .venv/bin/python benchmarks/features.py [--ids 8] [--views 2] [--steps 4] [--dino small base large] [--device auto] [--json]
    .venv/bin/python benchmarks/features.py --index 453000        # the index of so many ids alone, without features

The language model is the bundled tiny base, so what is shown is the cost of the encoders. Every figure is of a process of its
own (Michelangelo 64 M parameters; DINOv2 22, 86 and 304 M); ratios hold within one run alone. Parts are those of the mini data
set. Samples/s count whole steps of 4 samples, reading of clouds and pictures included, without the first step. On a CPU, seconds
are those that the process computed (with OMP_NUM_THREADS=1, what one free core would take): others may use the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cadmllm.places import bundled

DINO = {  # hidden size, layers, heads
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def main() -> None:
    """Parse, make the encoders and a small data set, run a process a row, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=8, help="parts")
    parser.add_argument("--views", type=int, default=2, help="views a part")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps that are timed")
    parser.add_argument("--dino", nargs="+", choices=DINO, default=list(DINO))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="of computing; features are stored in bfloat16")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--index", type=int, metavar="IDS", help="measure the index of a store of so many ids instead")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, size, folder = args.child
        measure = {"encode": encode_once, "text": train_steps, "without": train_steps, "with": train_steps}[what]
        print(json.dumps(measure(args, what, size, Path(folder)) | memory(args.device)))
        return
    if args.index:
        print(json.dumps(index_of(args.index), indent=1))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="cadmllm-features-") as folder:
        make_data(Path(folder) / "data", args.ids, args.views)
        make_michelangelo(Path(folder) / "points.pt")
        rows.append({"size": "-", "what": "text"} | child(args, "text", args.dino[0], folder))
        for size in args.dino:
            make_dino(Path(folder) / size, size)
            rows += [{"size": size, "what": what} | child(args, what, size, folder) for what in ("encode", "without", "with")]
            shutil.rmtree(Path(folder) / size)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def child(args: argparse.Namespace, what: str, size: str, folder: str) -> dict[str, Any]:
    """One measurement in a fresh process."""
    kept = ["--steps", str(args.steps), "--device", args.device, "--dtype", args.dtype]
    if what == "with":  # nothing may load them
        (Path(folder) / "points.pt").rename(Path(folder) / "hidden.pt")
    command = [sys.executable, __file__, *kept, "--child", what, size, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    if what == "with":
        (Path(folder) / "hidden.pt").rename(Path(folder) / "points.pt")
    return json.loads(done.stdout.splitlines()[-1])


def make_data(root: Path, ids: int, views: int) -> None:
    """The first parts of the mini data set, with some of their views."""
    source = bundled("data")
    for kind in ("json", "pcd", "img", "txt"):
        (root / kind / ("" if kind == "txt" else "0000")).mkdir(parents=True)
    for path in sorted((source / "txt").iterdir()):
        shutil.copy(path, root / "txt")
    for path in sorted((source / "json" / "0000").iterdir())[:ids]:
        shutil.copy(path, root / "json" / "0000")
        shutil.copy(source / "pcd" / "0000" / f"{path.stem}.npz", root / "pcd" / "0000")
        for view in range(views):
            shutil.copy(source / "img" / "0000" / f"{path.stem}_{view:03d}.png", root / "img" / "0000")


def make_michelangelo(path: Path) -> None:
    """The published sizes, random weights."""
    import torch

    from cadmllm.models.michelangelo import MichelangeloEncoder

    torch.manual_seed(0)
    torch.save(MichelangeloEncoder(257, 768, 3072, 12, 8).state_dict(), path)


def make_dino(folder: Path, size: str) -> None:
    """The published sizes (patch 14), random weights."""
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads = DINO[size]
    config = Dinov2Config(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, patch_size=14, image_size=518)
    Dinov2Model(config).save_pretrained(folder)


def settings_of(args: argparse.Namespace, what: str, size: str, folder: Path) -> Any:
    """The preset `tiny` with the real encoders."""
    from cadmllm.resolve import resolve

    settings = resolve(preset="tiny").settings
    settings.device, settings.dtype = args.device, args.dtype
    model, data, train = settings.model, settings.data, settings.train
    model.points_encoder, model.points_checkpoint, model.image_encoder = "michelangelo", folder / "points.pt", str(folder / size)
    model.point_count, model.point_tokens, model.image_tokens = 4096, 257, 257
    data.root, data.index, data.val_share = folder / "data", folder / "index", 0.0
    data.features = folder / f"features-{size}" if what == "with" else None
    data.draws = 1
    train.batch_size, train.accumulation, train.max_seq_length = 4, 1, 2048
    settings.stages[3].epochs = settings.stages[1].epochs = 1 + 4 * (args.steps + 1)
    return settings


def train_steps(args: argparse.Namespace, what: str, size: str, folder: Path) -> dict[str, Any]:
    """Steps of stage 3 ('text': of stage 1)."""
    from cadmllm.console import Console
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.train.cached import open_features
    from cadmllm.train.curriculum import Start, plan_stages
    from cadmllm.train.session import open_session
    from cadmllm.train.step import train_step

    settings, console = settings_of(args, what, size, folder), Console(quiet=True)
    dataset = open_dataset(settings.data)
    planned = plan_stages(settings, [1 if what == "text" else 3])
    cached = open_features(settings, planned, dataset, console)
    session = open_session(settings, planned[0], Start(None, "benchmark"), dataset, console, cached)
    loss = train_step(session.engine, session.windows[0].batches).loss
    now = clock(session.engine.device.type)
    samples, begun = 0, now()
    for step in range(1, args.steps + 1):
        window = session.windows[step]
        train_step(session.engine, window.batches)
        samples += sum(window.mix.values())
    seconds = now() - begun
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    return {"samples_per_s": samples / seconds, "parameters": parameters, "loss": loss}


def encode_once(args: argparse.Namespace, what: str, size: str, folder: Path) -> dict[str, Any]:
    """Clouds and views a second (read, encoded), and what they take on disk."""
    from cadmllm.console import Console
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.corpus.sources import Sources, sources_of
    from cadmllm.models.features import FrozenEncoder
    from cadmllm.train.encode import Options, encode

    settings = settings_of(args, what, size, folder)
    dataset = open_dataset(settings.data)
    found = {}
    done = sorted(folder.glob("features-*/points"))
    if done:  # the clouds' encoder is the same for all
        shutil.copytree(done[0], folder / f"features-{size}" / "points")
    for part in ("images",) if done else ("points", "images"):
        options = Options(parts=(part,), dtype="bfloat16", batch_size=8)
        (report,) = encode(settings, dataset, folder / f"features-{size}", options, Console(quiet=True))
        encoder = FrozenEncoder(settings, part)
        now = clock(encoder.device.type)
        listed, shape = list(sources_of(dataset, part, dataset.ids)), settings.model
        sources, begun = Sources(part, listed, shape.point_count, 1, shape.point_sampling), now()
        rows = [row for k in range(len(sources)) for row in sources[k].rows if row is not None]
        read = now()
        for k in range(0, len(rows), 8):
            encoder(rows[k : k + 8], "bfloat16")
        rates = {"read_per_s": len(rows) / (read - begun), "encoded_per_s": len(rows) / (now() - read)}
        found[part] = {**rates, "bytes_a_row": report.bytes / report.rows}
    return found


def clock(device: str) -> Callable[[], float]:
    """Seconds: computed ones on a CPU, those of the wall elsewhere."""
    return time.process_time if device == "cpu" else time.perf_counter


def memory(device: str) -> dict[str, float]:
    """Most memory the process held, MiB."""
    import torch

    # not getrusage: its figure is that of the parent where that was larger
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found = {"rss_mib": int(peak.split()[1]) / 1024}
    if device != "cpu" and torch.cuda.is_available():
        found["cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def index_of(count: int) -> dict[str, float]:
    """Size of an index, seconds to write and open it and to look up every id and one."""
    import numpy as np

    from cadmllm.corpus import shards
    from cadmllm.corpus.features import Part
    from cadmllm.corpus.shards import INDEX, SHARD_BYTES, Entry, Recipe, Shard, shard_path, write_index

    recipe = Recipe("michelangelo", "0" * 64, 257, 768, "bfloat16", "bfloat16", {"draws": 1})
    each = SHARD_BYTES // recipe.row_bytes
    ids = [f"{k // 10_000:04d}/{k:08d}_{k % 100_000:05d}" for k in range(count)]
    shards.read_crc = lambda shard: np.zeros(shard.rows, "<u4")  # ty: ignore[invalid-assignment]  # there are no shards
    with tempfile.TemporaryDirectory(prefix="cadmllm-features-") as name:
        folder, made = Path(name), []
        for begin in range(0, count, each):
            entries = tuple(Entry(id_, k, 1, "01" * 16, "02" * 16) for k, id_ in enumerate(ids[begin : begin + each]))
            size = len(entries) * recipe.row_bytes
            made.append(Shard(shard_path(folder, begin // each), recipe, entries, (), len(entries), 8, size))
        times = [time.perf_counter()]
        write_index(folder, recipe, made, {})
        times.append(time.perf_counter())
        part = Part(folder)
        times.append(time.perf_counter())
        assert (part.find(ids) >= 0).all()
        times.append(time.perf_counter())
        for id_ in ids[:1000]:
            part.find([id_])
        times.append(time.perf_counter())
        taken = (folder / INDEX).stat().st_size / 2**20
    write, opening, every, thousand = (b - a for a, b in zip(times, times[1:], strict=False))
    return {
        "shards": len(made),
        "mib": taken,
        "write_s": write,
        "open_s": opening,
        "find_all_s": every,
        "find_one_us": thousand * 1e3,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| DINOv2 | stage 3 | parameters | peak RSS | peak CUDA | samples/s | loss of the first step |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {"text": "(stage 1: text alone)", "without": "encoders loaded", "with": "cached features"}
    for row in (row for row in rows if row["what"] != "encode"):
        cuda = f"{row['cuda_mib']:,.0f} MiB" if "cuda_mib" in row else "not measured"
        figures = f"{row['parameters'] / 1e6:.1f} M | {row['rss_mib']:,.0f} MiB | {cuda} | {row['samples_per_s']:.2f}"
        lines.append(f"| {row['size']} | {names[row['what']]} | {figures} | {row['loss']:.4f} |")
    lines += ["", "| encoder | read/s | encoded/s | bytes a row | GB per 1,000 rows |", "|---|---|---|---|---|"]
    for row in (row for row in rows if row["what"] == "encode"):
        for part, name in (("points", "Michelangelo, clouds"), ("images", f"DINOv2-{row['size']}, views")):
            if part not in row:
                continue
            one = row[part]
            size = f"{one['bytes_a_row']:,.0f} | {one['bytes_a_row'] / 1e6:.2f}"
            lines.append(f"| {name} | {one['read_per_s']:.1f} | {one['encoded_per_s']:.2f} | {size} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
