"""What does not fit into `train.max_seq_length`: targets that are left out, prompts that leave no room, captions that are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.data import opened, stocks_of

if TYPE_CHECKING:
    from cadmllm.corpus.readiness import Stock

NAME = "sequences"
SHARE = 0.01  # of the targets (or captions) from which on it is worth a warning
CAPTIONS = 500  # that are looked at, spread over the training ids
STEP = 64  # lengths that are proposed are multiples of it


def check_sequences(situation: Situation) -> Outcome:
    """Every stage has room for its targets beside prompt and features.

    Raises:
        CadmllmError: E401, E402, E407, E482 from the data set.
    """
    settings = situation.needed
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated")
    opened(situation)
    stocks = stocks_of(situation)
    chosen = [number for number in situation.stages if (stocks[number].lengths > 0).any()]
    if not chosen:
        return Outcome(skipped="no program can be used")
    narrow = min(chosen, key=lambda number: stocks[number].longest)  # the stage with the most features
    stock, long = stocks[narrow], stocks[narrow].too_long
    findings = tuple(_targets(situation, narrow, stocks))
    cut, looked_at = (0, 0) if findings and findings[0].level is Level.FAIL else _cut_captions(situation, narrow, stock)
    if looked_at and cut >= SHARE * looked_at and cut > 0:
        findings += (_cut(situation, narrow, cut, looked_at),)
    details = tuple(_room(situation, number, stocks[number]) for number in chosen)
    known = int((stock.lengths > 0).sum())
    room = f"stage {narrow} has room for targets of {stock.longest:,} tokens; {long:,} of {known:,} have more"
    return Outcome(room, findings, details=details)


def _targets(situation: Situation, number: int, stocks: dict[int, Stock]) -> Iterator[Finding]:
    """E606, E406 or E464, for the stage with the least room."""
    stock, most = stocks[number], situation.needed.train.max_seq_length
    features, lengths = _taken(situation, number), stock.lengths[stock.lengths > 0]
    room = f"train.max_seq_length={most} less {features} features and the prompt's frame"
    enough = f"--set train.max_seq_length={_needed(situation, stock, 1.0, number)}"
    fewer = " (or fewer features: model.point_tokens, model.image_tokens, model.image_views)" if features else ""
    long = stock.too_long
    if stock.longest < 1:
        message = f"stage {number}: a prompt leaves no room for a single supervised token: {room} is {stock.longest}"
        yield Finding("E606", Level.FAIL, NAME, message, f"{enough}{fewer}")
    elif long == len(lengths):
        message = (
            f"all {long:,} targets are too long for stage {number}: the shortest has {int(lengths.min()):,} tokens, and there is"
            f" room for {stock.longest:,} ({room})"
        )
        yield Finding("E406", Level.FAIL, NAME, message, f"{enough}{fewer}")
    elif long >= SHARE * len(lengths):
        others = [f"stage {n}: {stocks[n].too_long:,}" for n in situation.stages if n != number]
        message = (
            f"{long:,} of {len(lengths):,} targets ({long / len(lengths):.1%}) are too long for stage {number} and are left out:"
            f" there is room for {stock.longest:,} tokens ({room})" + (f"; {', '.join(others)}" if others else "")
        )
        some = f"--set train.max_seq_length={_needed(situation, stock, 0.99, number)} keeps 99 %"
        remedy = f"{some}, {enough} all of them; what it costs: cadmllm plan"
        yield Finding("E464", Level.WARN, NAME, message, remedy)


def _taken(situation: Situation, number: int) -> int:
    from cadmllm.corpus import fit

    return fit.feature_tokens(situation.needed, situation.needed.stages[number].reached)


def _needed(situation: Situation, stock: Stock, share: float, number: int) -> int:
    """The `train.max_seq_length` that has room for this share of the targets."""
    import numpy as np

    from cadmllm.corpus import fit

    longest = int(np.quantile(stock.lengths[stock.lengths > 0], share, method="inverted_cdf"))
    return -(-(longest + fit.FRAME + _taken(situation, number)) // STEP) * STEP


def _room(situation: Situation, number: int, stock: Stock) -> str:
    """A line of a stage: room, and how long its targets are."""
    import numpy as np

    lengths = stock.lengths[stock.lengths > 0]
    middle, high = np.quantile(lengths, [0.5, 0.99], method="inverted_cdf")
    return (
        f"stage {number}: room for {stock.longest:,} tokens beside {_taken(situation, number):,} features; targets have"
        f" {int(middle):,} (median), {int(high):,} (99 %), {int(lengths.max()):,} (longest); {stock.too_long:,} are left out"
    )


def _cut_captions(situation: Situation, number: int, stock: Stock) -> tuple[int, int]:
    """(captions that lose their end, captions looked at); about, as no tokenizer is loaded: four letters are a token."""
    import numpy as np

    from cadmllm.corpus import fit
    from cadmllm.corpus.completeness import LETTERS

    dataset, shares = opened(situation), situation.needed.stages[number].reached
    train = dataset.split()[0]
    places = np.flatnonzero(stock.fits)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(CAPTIONS, len(places)), dtype=np.int64))]
    cut = 0
    for place in chosen:
        room = fit.caption_room(situation.needed, shares, int(stock.lengths[place]))
        cut += -(-len(dataset.caption(train[int(place)])) // LETTERS) > room
    return cut, len(chosen)


def _cut(situation: Situation, number: int, cut: int, looked_at: int) -> Finding:
    most = situation.needed.train.max_seq_length
    message = (
        f"about {cut / looked_at:.0%} of the captions lose their end in stage {number}: {cut} of {looked_at} that were looked at"
        f" are longer than train.max_seq_length={most} leaves room for (estimated: four letters a token)"
    )
    root = situation.needed.data.root
    remedy = f"--set train.max_seq_length={2 * most}; which ones, exactly: cadmllm data check {root} --stage {number}"
    return Finding("E451", Level.WARN, NAME, message, remedy)


CHECKS = (
    Check(
        NAME,
        "targets and captions fit into train.max_seq_length beside the features of clouds and views",
        ("E406", "E451", "E464", "E606"),
        check_sequences,
        needs=("numpy",),
        group="data",
    ),
)
