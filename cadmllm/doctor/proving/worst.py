"""The fullest micro-batch that the run can meet, of real samples: the longest ones, showing everything that the stage shows."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.sample import load_sample
from cadmllm.errors import CadmllmError
from cadmllm.train.windows import cost_of

if TYPE_CHECKING:
    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.types import Batch
    from cadmllm.doctor.proving.bench import Bench

EPOCH = 1 << 21  # the draws of proofs: an epoch that neither training nor validation reaches
SHORT = 32  # of the shortest samples that are read, too
SPARE = 3  # times as many candidates as the micro-batch takes: captions count, too, and some cannot be read


def combination_of(bench: Bench, id_: str) -> str:
    """What of a stage's combinations an id can show that takes the most tokens."""
    available = bench.dataset.modalities(id_)
    able = [name for name, share in bench.stage.reached.items() if share > 0 and set(name.split("+")) <= available | {"text"}]
    return max(able, key=lambda name: (cost_of(bench.dataset, bench.settings, id_, name), name), default="text")


def read(bench: Bench, id_: str, shown: str, place: int) -> Encoded | None:
    """A sample as training reads and encodes it; None where it cannot be read."""
    session, model = bench.session, bench.settings.model
    where: dict[str, Any] = {"seed": bench.settings.train.seed, "stage": bench.stage.number, "epoch": EPOCH, "position": place}
    shape: dict[str, Any] = {"point_count": model.point_count, "sampling": model.point_sampling}
    shape |= {"views": model.image_views, "draws": bench.settings.data.draws}
    store = session.cached.store if session.cached else None
    try:
        sample = load_sample(bench.dataset, id_, shown, features=store, **where, **shape)
        return session.collate.encode(sample)
    except CadmllmError as error:
        bench.dataset.note(error, id_)
        return None


def longest(bench: Bench) -> list[Encoded]:
    """The longest samples of the stage, longest first, each modality among them; and behind them some of the shortest."""
    session = bench.session
    window = session.windows.window
    ids = session.data.train_ids
    shows = ((id_, combination_of(bench, id_)) for id_ in ids)
    costs = [(cost_of(bench.dataset, bench.settings, id_, shown), id_, shown) for id_, shown in shows]
    room = session.windows.room
    most, used = SPARE * (room.tokens if room.packed else room.samples), 0
    chosen: dict[tuple[int, str, str], None] = {}
    for found in heapq.nlargest(SPARE * window, costs):
        if used >= most:
            break
        chosen[found] = None
        used += found[0] if room.packed else 1
    # the shortest, too: they fill the room that long ones leave, and make the shorter micro-batch
    chosen |= dict.fromkeys(heapq.nsmallest(min(window, SHORT), costs))
    samples = [e for place, (_, id_, shown) in enumerate(chosen) if (e := read(bench, id_, shown, place)) is not None]
    samples.sort(key=len, reverse=True)
    lacking = set(bench.stage.modalities) - {part for e in samples[:window] for part in e.sample.combination.split("+")}
    for part in sorted(lacking):
        more = _showing(bench, part)
        samples = samples if more is None else [more, *samples]
    if not samples:
        remedy = f"look at the data: cadmllm data check {bench.settings.data.root}"
        raise CadmllmError("E406", f"no sample of {bench.settings.data.root} can be read", remedy)
    return samples


def _showing(bench: Bench, part: str) -> Encoded | None:
    names = [name for name, share in bench.stage.reached.items() if share > 0 and part in name.split("+")]
    for id_ in bench.dataset.having(bench.session.data.train_ids, part)[:64]:
        for name in names:
            if set(name.split("+")) <= bench.dataset.modalities(id_):
                return read(bench, id_, name, 0)
    return None


def full(bench: Bench, samples: Sequence[Encoded]) -> Batch:
    """One micro-batch filled with the longest samples, as training would fill it."""
    room = bench.session.windows.room
    most = min(len(samples), bench.session.windows.window)
    if not room.packed:
        return bench.session.collate.pad(samples[: min(most, room.samples)])
    return bench.session.collate.pack(fill(samples, room.tokens, most))


def shorter(bench: Bench, samples: Sequence[Encoded], tokens: int) -> Batch | None:
    """A micro-batch of about half of `tokens` tokens; None where the data has none."""
    if bench.session.windows.room.packed:
        chosen = fill(samples, tokens // 2, len(samples), strictly=True)
        return bench.session.collate.pack(chosen) if chosen else None
    rows = min(bench.session.windows.room.samples, len(samples))
    small = [e for e in samples if len(e) * max(1, rows // 2) < tokens][: max(1, rows // 2)]
    batch = bench.session.collate.pad(small) if small else None
    return batch if batch is not None and batch.computed < tokens else None


def fill(samples: Sequence[Encoded], tokens: int, most: int, *, strictly: bool = False) -> list[Encoded]:
    """The longest samples that fit into so many tokens together; the first always, unless `strictly`."""
    chosen: list[Encoded] = []
    used = 0
    for encoded in samples:
        if len(chosen) == most:
            break
        if used + len(encoded) <= tokens or not (chosen or strictly):
            chosen.append(encoded)
            used += len(encoded)
    return chosen
