"""What has changed since the last run that went well: the first thing to look at when the next one does not. Never a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cadmllm.doctor.cards import card_of, cards_of
from cadmllm.doctor.check import Check, Outcome, Situation
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet

TOLD = 4  # changes that the check's own line names; `-v` has all


def check_since(situation: Situation) -> Outcome:
    """Compares with the newest good fingerprint of this run folder, else with the user's last good one of the same model."""
    from cadmllm.train import fingerprint

    own = situation.needed.run.dir / fingerprint.NAME
    good, facts = fingerprint.newest(own), facts_of(situation)
    whose = "the good run"
    if good is None:
        last = fingerprint.newest(fingerprint.last_good_path(situation.machine.environ))
        same = last is not None and last.facts.get("model", {}).get("name") == facts["model"]["name"]
        good, whose = (last if same else None), "your last good run, in another folder,"
    if good is None:
        return Outcome("no run of this model has gone well here so far: later ones are compared with the first that does")
    changes = fingerprint.differences(good.facts, facts)
    if not changes:
        return Outcome(f"nothing changed since {whose} of {good.name()}")
    more = f" and {len(changes) - TOLD} more" if len(changes) > TOLD else ""
    return Outcome(f"{', '.join(changes[:TOLD])}{more} since {whose} of {good.name()}", details=tuple(changes))


def facts_of(situation: Situation) -> dict[str, Any]:
    """The fingerprint of the run that is about to start, as `train` will keep it when it has gone well."""
    from cadmllm.train import fingerprint

    return fingerprint.of(situation.needed, _dataset(situation), card=_card(situation))


def _dataset(situation: Situation) -> DataSet | None:
    """None where it cannot be opened or split, which the check of the data says."""
    if situation.needed.data.synthetic or "numpy" in situation.broken:
        return None
    try:
        dataset = situation.dataset
        dataset.split()
    except CadmllmError:
        return None
    return dataset


def _card(situation: Situation) -> dict[str, Any]:
    """As `train.environment.device_facts` tells it by torch."""
    card = card_of(situation)
    if card is None:
        return {}
    capability = ".".join(map(str, card.capability)) if card.capability != (0, 0) else None
    return {"name": card.name, "driver": cards_of(situation).driver or None, "compute_capability": capability}


CHECKS = (
    Check(
        "since",
        "nothing else has changed since the last good run, or what",
        (),
        check_since,
        needs=("numpy",),
        group="system",
    ),
)
