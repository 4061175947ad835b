"""Proof 3: one sample of each modality mix, decoded, with what is supervised marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cadmllm.cad import tokens
from cadmllm.cad.vocabulary import END, VOCABULARY
from cadmllm.corpus.prompt import features_of
from cadmllm.corpus.types import ADDED, CAD_SIZE, IGNORE, IMAGE, POINTS
from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.proving import worst
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.types import Batch
    from cadmllm.doctor.proving.bench import Bench
    from cadmllm.models.fusion import CadMLLM

NAME = "labels"
LOOKED_AT = 256  # ids that are looked through for one that shows a mix
SHOWN = 24  # supervised items that are written out


def prove(bench: Bench) -> Outcome:
    """Supervised tokens are the target's, all of it and nothing else; placeholders are as many as features."""
    samples = mixes(bench)
    session = bench.session
    whole = session.windows.room.packed
    batch = session.collate.pack(samples) if whole else session.collate.pad(samples)
    rows = documents(batch)
    problems = [(e, text) for e, row in zip(samples, rows, strict=True) for text in wrong(bench, e, *row)]
    problems += [(samples[0], text) for text in _offsets(batch, samples)]
    features = _features(bench, batch)
    if features:
        problems.append((samples[0], features))
    root = bench.settings.data.root
    remedy = f"look at it: cadmllm data show {{}} --root {root}; and report this with: cadmllm doctor --deep --json"
    findings = tuple(
        Finding("E863", Level.FAIL, NAME, f"{e.sample.id} ({e.sample.combination}): {text}", remedy.format(e.sample.id))
        for e, text in problems[:6]
    )
    details = tuple(line for e, row in zip(samples, rows, strict=True) for line in rendered(bench, e, *row))
    absent = sorted(set(_mixes(bench)) - {e.sample.combination for e in samples})
    supervised = sum(len(e.sample.target) for e in samples if e.sample.target is not None)
    summary = f"{len(samples)} modality mixes decode: {supervised} supervised tokens are their targets, features in their places"
    if absent:
        summary += f"; no sample shows {', '.join(absent)}"
    return Outcome(summary, findings, details=details)


def _mixes(bench: Bench) -> list[str]:
    return [name for name, share in bench.stage.reached.items() if share > 0]


def mixes(bench: Bench) -> list[Encoded]:
    """A sample of each modality mix of the stage that the data has, read and encoded once.

    Raises:
        CadmllmError: E406 when there is none at all.
    """
    return bench.once("mixes", lambda: _find(bench))


def _find(bench: Bench) -> list[Encoded]:
    bench.say("a sample of each modality mix")
    found = []
    ids = bench.session.data.train_ids
    for name in _mixes(bench):
        needed = set(name.split("+")) - {"text"}
        able = ids
        for part in sorted(needed):
            able = bench.dataset.having(able, part)
        for place, id_ in enumerate(able[:LOOKED_AT]):
            encoded = worst.read(bench, id_, name, place)
            if encoded is not None and encoded.sample.combination == name:
                found.append(encoded)
                break
    if not found:
        remedy = f"look at the data: cadmllm data check {bench.settings.data.root}"
        raise CadmllmError("E406", f"no sample of {bench.settings.data.root} can be read", remedy)
    return found


def documents(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Ids, labels and positions of each sample of a batch, padding left out."""
    assert batch.labels is not None
    if batch.documents:
        parts = (batch.input_ids[0], batch.labels[0], batch.position_ids[0])
        cut = [part.split(batch.documents) for part in parts]
        return [tuple(piece.tolist() for piece in pieces) for pieces in zip(*cut, strict=True)]
    rows = []
    for ids, labels, positions, mask in zip(batch.input_ids, batch.labels, batch.position_ids, batch.attention_mask, strict=True):
        kept = mask.bool()
        rows.append((ids[kept].tolist(), labels[kept].tolist(), positions[kept].tolist()))
    return rows


def wrong(bench: Bench, encoded: Encoded, ids: Sequence[int], labels: Sequence[int], positions: Sequence[int]) -> list[str]:
    """What is wrong with a sample in a batch, in words."""
    text_size = bench.session.model.text_size
    target = list(tokens.encode(bench.dataset.program(encoded.sample.id)).tokens)
    said = []
    supervised = [k for k, label in enumerate(labels) if label != IGNORE]
    expected = list(range(len(ids) - len(target), len(ids)))
    if supervised != expected:
        first = next((k for k in supervised if k not in set(expected)), None)
        where = "" if first is None else f", among them position {first}, which is of the prompt"
        said.append(
            f"{len(supervised)} positions are supervised{where}; the target has {len(target)}, at the end of the sequence"
        )
    elif [labels[k] for k in supervised] != target:
        said.append("the labels are not the tokens of its program")
    elif [ids[k] for k in supervised] != [text_size + label for label in target]:
        said.append("the labels are not the items that stand at their positions")
    elif target[-1] != END:
        said.append("the target does not end with the end token")
    elif not _decodes([labels[k] for k in supervised], target):
        said.append("the supervised tokens do not decode to its program")
    for item, count in ((POINTS, _of(bench, encoded)[0]), (IMAGE, _of(bench, encoded)[1])):
        there = sum(i == text_size + ADDED.index(item) for i in ids)
        if there != count:
            said.append(f"{there} placeholders {item} for {count} features")
    if list(positions) != list(range(len(ids))):
        said.append("its positions do not run from 0 upwards")
    return said


def _decodes(labels: list[int], target: list[int]) -> bool:
    try:
        return list(tokens.encode(tokens.decode(labels)).tokens) == target
    except CadmllmError:
        return False


def _of(bench: Bench, encoded: Encoded) -> tuple[int, int]:
    """Features of its clouds and of its images."""
    model = bench.session.model
    clouds, images = features_of(encoded.sample, model.cloud_tokens, model.image_tokens, model.images_together)
    return sum(clouds), sum(images)


def _offsets(batch: Batch, samples: Sequence[Encoded]) -> list[str]:
    """A packed row's lengths are those of its samples."""
    lengths = [len(e) for e in samples]
    if batch.documents and (batch.documents != lengths or sum(lengths) != batch.computed):
        return [f"a packed row says lengths {batch.documents}, and its samples have {lengths}"]
    return []


@torch.no_grad()
def _features(bench: Bench, batch: Batch) -> str:
    """The encoders give as many features as there are placeholders."""
    session = bench.session
    try:
        with session.engine.autocast():
            session.model.embed(batch.to(session.engine.device))
    except CadmllmError as error:
        return error.message
    return ""


def rendered(bench: Bench, encoded: Encoded, ids: Sequence[int], labels: Sequence[int], _: Sequence[int]) -> list[str]:
    """`text+image 0000/00000012: "<|im_start|>user\\n<image x 17>a plate...", then what is supervised in brackets."""
    model = bench.session.model
    pieces: list[str] = []
    at = 0
    while at < len(ids):
        end = at
        kind = _kind(ids[at], labels[at], model.text_size)
        while end < len(ids) and _kind(ids[end], labels[end], model.text_size) == kind:
            end += 1
        pieces.append(_piece(kind, list(ids[at:end]), model))
        at = end
    return [f"{encoded.sample.combination} {encoded.sample.id}:", "  " + "".join(pieces).replace("\n", "\\n")]


def _kind(token: int, label: int, text_size: int) -> str:
    if label != IGNORE:
        return "supervised"
    if token < text_size:
        return "text"
    return {text_size + ADDED.index(POINTS): "point_cloud", text_size + ADDED.index(IMAGE): "image"}.get(token, "item")


def _piece(kind: str, ids: list[int], model: CadMLLM) -> str:
    if kind == "text":
        return str(model.tokenizer.decode(ids, skip_special_tokens=False))
    if kind in ("point_cloud", "image"):
        return f"<{kind} x {len(ids)}>"
    names = [VOCABULARY[i - model.text_size] if 0 <= i - model.text_size < CAD_SIZE else f"?{i}" for i in ids]
    more = f" ... {len(names) - SHOWN} more, {names[-1]}" if len(names) > SHOWN else ""
    text = " ".join(names[:SHOWN]) + more
    return f"[{text}]" if kind == "supervised" else f"(not supervised: {text})"
