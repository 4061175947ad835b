from __future__ import annotations

from dataclasses import replace

import pytest

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.types import IGNORE
from cadmllm.doctor.proving import labels


def broken(monkeypatch, change) -> None:
    """`Collator.encode`, its result changed."""
    real = Collator.encode
    monkeypatch.setattr(Collator, "encode", lambda self, sample: change(real(self, sample)))


@pytest.mark.parametrize("packing", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_healthy_run_decodes(bench, packing) -> None:
    b = bench(**{"train.packing": packing})
    outcome = labels.prove(b)
    assert outcome.findings == ()
    assert outcome.summary.startswith("4 modality mixes decode")
    text = "\n".join(outcome.details)
    assert "<point_cloud x 8><image x 4>" in text
    assert "[<cad:size>" in text
    assert "<cad:end>]" in text


def test_labels_that_are_shifted_by_one_are_found(bench, monkeypatch) -> None:
    broken(monkeypatch, lambda e: replace(e, labels=[*e.labels[1:], IGNORE]))
    findings = labels.prove(bench()).findings
    assert {f.code for f in findings} == {"E863"}
    assert "of the prompt" in findings[0].message
    assert "cadmllm data show 0000/" in findings[0].remedy


@pytest.mark.long
def test_a_prompt_that_is_supervised_is_found(bench, monkeypatch) -> None:
    broken(monkeypatch, lambda e: replace(e, labels=[0 if label == IGNORE else label for label in e.labels]))
    assert labels.prove(bench()).findings[0].code == "E863"


@pytest.mark.long
def test_a_missing_end_token_is_found(bench, monkeypatch) -> None:
    broken(monkeypatch, lambda e: replace(e, labels=e.labels[:-1], ids=e.ids[:-1]))
    assert labels.prove(bench()).findings[0].code == "E863"


@pytest.mark.long
def test_other_labels_than_what_stands_there_are_found(bench, monkeypatch) -> None:
    broken(monkeypatch, lambda e: replace(e, ids=[*e.ids[:-2], e.ids[-2] + 1, e.ids[-1]]))
    assert "not the items" in labels.prove(bench()).findings[0].message


@pytest.mark.long
def test_a_placeholder_too_few_is_found(bench, monkeypatch) -> None:
    b = bench()
    first = b.session.model.text_size + labels.CAD_SIZE

    def without_one(e):
        at = next((k for k, token in enumerate(e.ids) if token == first), None)
        if at is None:
            return e
        return replace(e, ids=e.ids[:at] + e.ids[at + 1 :], labels=e.labels[:at] + e.labels[at + 1 :])

    broken(monkeypatch, without_one)
    found = [f.message for f in labels.prove(b).findings]
    assert any("7 placeholders <|cad_points|> for 8 features" in text for text in found), found


@pytest.mark.long
def test_packed_positions_that_do_not_start_anew_are_found(bench, monkeypatch) -> None:
    real = Collator.pack

    def pack(self, encoded):
        batch = real(self, encoded)
        batch.position_ids = batch.position_ids * 0 + 1
        return batch

    monkeypatch.setattr(Collator, "pack", pack)
    assert any("positions" in f.message for f in labels.prove(bench()).findings)
