from __future__ import annotations

import pytest

from cadmllm.doctor.proving import reload
from cadmllm.train import contents
from cadmllm.train import session as sessions


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_healthy_run_goes_on_to_the_bit(bench, lora, dropout) -> None:
    b = bench(**lora, **{"lora.dropout": dropout})
    outcome = reload.prove(b)
    assert outcome.findings == ()
    assert "the same to the bit" in outcome.summary
    assert b.measured["save"]["bytes"] > 0
    assert (b.settings.run.dir / "stage3_all_model" / "steps").is_dir()
    assert not b.asked.run.dir.exists()


def test_a_save_that_loses_the_optimizer_is_found(bench, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "load_optimizer", lambda *args: None)
    findings = reload.prove(bench()).findings
    assert {f.code for f in findings} == {"E864"}
    assert "after the next step differ" in findings[0].message or "loss" in findings[0].message


@pytest.mark.long
def test_a_save_that_rounds_the_weights_is_found(bench, lora, monkeypatch) -> None:
    real = contents.trained_state
    monkeypatch.setattr(contents, "trained_state", lambda model: {k: v.bfloat16().float() for k, v in real(model).items()})
    assert "weights as they were saved differ" in reload.prove(bench(**lora)).findings[0].message


@pytest.mark.long
def test_a_resume_that_reads_other_samples_is_found(bench, monkeypatch) -> None:
    real = sessions.resume_session

    def resumed(*args):
        session = real(*args)
        session.windows.settings = session.settings.model_copy(deep=True)
        session.windows.settings.train.seed += 1
        return session

    from cadmllm.doctor.proving import bench as benches

    monkeypatch.setattr(benches, "resume_session", resumed)
    assert any("was made of" in f.message for f in reload.prove(bench()).findings)


def test_on_a_gpu_rounding_is_no_finding_and_a_lost_optimizer_is() -> None:
    from types import SimpleNamespace

    import torch

    b = SimpleNamespace(device=torch.device("cuda"), settings=SimpleNamespace(dtype="bfloat16"))
    before = {"a": torch.zeros(1000)}
    one = reload.After(["x"], 1.0, 1.0, {"a": torch.full((1000,), 1e-4)})
    near = reload.After(["x"], 1.001, 1.0, {"a": one.weights["a"] * (1 + 0.01 * torch.randn(1000))})
    far = reload.After(["x"], 1.001, 1.0, {"a": torch.randn(1000).sign() * 2e-4})
    assert reload.judge(b, one, near, *reload.distance(before, one, near)) == []
    assert len(reload.judge(b, one, far, *reload.distance(before, one, far))) == 1
