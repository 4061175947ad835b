"""Training from cached features gives the losses of training without, and refuses features that are not its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import make_dino, make_michelangelo
from PIL import Image
from safetensors.torch import load_file

from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.console import Console
from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.roster import Ids
from cadmllm.corpus.sample import load_sample
from cadmllm.corpus.shards import shard_paths
from cadmllm.corpus.types import Batch
from cadmllm.doctor.check import Situation
from cadmllm.doctor.runner import CHECKS, run_checks
from cadmllm.errors import CadmllmError
from cadmllm.infer import sampling
from cadmllm.models.weights import load_model
from cadmllm.settings import Settings
from cadmllm.train import loop, squeeze
from cadmllm.train.cached import open_features
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.encode import Options, encode
from cadmllm.train.session import Session, open_session
from cadmllm.train.telemetry import read_metrics
from cadmllm.train.windows import iterate


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with points.pt and dino/; read only."""
    folder = tmp_path_factory.mktemp("encoders")
    make_michelangelo(folder / "points.pt")
    make_dino(folder / "dino")
    return folder


@pytest.fixture
def frozen(settings: Callable[..., Settings], encoders: Path, parts: DataSet) -> Callable[..., Settings]:
    """Settings with both frozen encoders over `parts`."""

    def make(**groups: dict) -> Settings:
        model = {
            "points_encoder": "michelangelo",
            "points_checkpoint": encoders / "points.pt",
            "point_tokens": 9,
            "image_encoder": str(encoders / "dino"),
            "image_bridge": "mlp",
            "image_tokens": 5,
            "image_views": 2,
        }
        groups["model"] = {**model, **groups.get("model", {})}
        groups["data"] = {"root": parts.data.root, **groups.get("data", {})}
        made = settings(**groups)
        made.stages[2].probabilities = {"text": 0.2, "text+point_cloud": 0.8}
        made.stages[3].probabilities = {"text+point_cloud": 0.3, "text+image": 0.2, "text+point_cloud+image": 0.5}
        return made

    return make


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def store(frozen: Callable[..., Settings], parts: DataSet, stores: Path, console) -> Path:
    """Features of both encoders, 3 draws, float32; made once, copied by tests that harm it."""
    if not (stores / "both").is_dir():
        encode(frozen(), parts, stores / "both", Options(draws=3, dtype="float32"), console)
    return stores / "both"


def losses(settings: Settings, key: str = "loss") -> list[float]:
    return [record[key] for record in read_metrics(settings.run.dir / "metrics.jsonl")]


def rehearse(settings: Settings, dataset: DataSet, console: Console) -> None:
    """Everything that is checked before the first step of stage 3."""
    loop.dry_run(settings, [3], dataset, console, from_scratch=True, resume=False, overwrite=False)


def opened(settings: Settings, dataset: DataSet, console: Console) -> Session:
    """Stage 3 before its first step."""
    planned = plan_stages(settings, [3])
    cached = open_features(settings, planned, dataset, console)
    return open_session(settings, planned[0], Start(None, "test"), dataset, console, cached)


@pytest.mark.parametrize("stages", [[2], [3]])
def test_the_loss_is_that_of_training_without(frozen, parts, store, console, tmp_path, encoders, stages) -> None:
    here = shutil.copytree(encoders, tmp_path / "encoders")
    model = {"points_checkpoint": here / "points.pt", "image_encoder": str(here / "dino")}
    common = {"model": model, "train": {"val_steps": 3}}
    common["train"] = {
        "batch_size": 2,
        "accumulation": 2,
        "max_seq_length": 512,
        "warmup_steps": 2,
        "val_samples": 6,
        "val_steps": 3,
    }
    without = frozen(**common, data={"draws": 3}, run={"dir": tmp_path / "without"})
    a = loop.train(without, stages, parts, console, from_scratch=True)
    shutil.rmtree(here)  # nothing may load them from here on
    with_ = frozen(**common, data={"features": store}, run={"dir": tmp_path / "with"})
    b = loop.train(with_, stages, parts, console, from_scratch=True)
    assert len(losses(without)) == 6
    np.testing.assert_allclose(losses(with_), losses(without), rtol=2e-5)
    np.testing.assert_allclose(losses(with_, "grad_norm"), losses(without, "grad_norm"), rtol=2e-4)
    assert [r["mix"] for r in read_metrics(b.metrics)] == [r["mix"] for r in read_metrics(a.metrics)]
    assert a.stages[0].val_loss.keys() == b.stages[0].val_loss.keys()
    for name, value in a.stages[0].val_loss.items():
        assert b.stages[0].val_loss[name] == pytest.approx(value, rel=2e-5)
    said = console.err.getvalue()
    assert "their encoder is not loaded" in said
    assert "one of the 3 draws" in said
    assert "is not on this machine" in said  # nobody can tell whether it is the same encoder
    one, two = (load_file(result.stages[0].folder / "model.safetensors") for result in (a, b))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one)


def test_a_store_holds_what_resamplers_read(frozen, parts, console, tmp_path) -> None:
    """All patches of a view and all tokens of a cloud, of which any number can be made."""
    bridge = {"image_bridge": "perceiver", "image_tokens": 6, "point_tokens": 4, "resampler_width": 32}
    made = frozen(model=bridge, train={"gradient_checkpointing": True})
    encode(made, parts, tmp_path / "store", Options(dtype="float32"), console)
    for tokens in (4, 9):
        model = {**bridge, "point_tokens": tokens}
        common = {"model": model, "train": {"max_steps": 3, "gradient_checkpointing": tokens == 4}}
        without = frozen(**common, data={"draws": 1}, run={"dir": tmp_path / f"without{tokens}"})
        loop.train(without, [3], parts, console, from_scratch=True)
        with_ = frozen(**common, data={"features": tmp_path / "store"}, run={"dir": tmp_path / f"with{tokens}"})
        found = loop.train(with_, [3], parts, console, from_scratch=True)
        np.testing.assert_allclose(losses(with_), losses(without), rtol=2e-5)
        saved = load_file(found.stages[0].folder / "model.safetensors")
        assert saved["images.projector.latents"].shape == (6, 32)
        assert ("points.projector.latents" in saved) == (tokens == 4)
    # the files tell that it is the same encoder: nothing is encoded again, whatever is made of the features
    again = encode(frozen(model={**bridge, "point_tokens": 5}), parts, tmp_path / "store", Options(dtype="float32"), console)
    assert [report.encoded for report in again] == [0, 0]
    with pytest.raises(CadmllmError, match="tokens 9 there, 1 wanted"):
        encode(frozen(model={**bridge, "point_tokens": 1}), parts, tmp_path / "store", Options(dtype="float32"), console)
    with pytest.raises(CadmllmError, match="more than the Michelangelo encoder gives: 9"):
        encode(frozen(model={**bridge, "point_tokens": 12}), parts, tmp_path / "store", Options(dtype="float32"), console)


def test_a_checkpoint_of_cached_features_infers_with_the_encoders(frozen, parts, store, console) -> None:
    s = frozen(data={"features": store})
    session = open_session(
        s,
        plan_stages(s, [3])[0],
        loop.Start(None, "test"),
        parts,
        console,
        loop.open_features(s, plan_stages(s, [3]), parts, console),
    )
    assert not [name for name, _ in session.model.named_parameters() if ".encoder." in name]
    assert "encoders" not in {row["component"] for row in session.model.describe()}
    result = loop.train(s, [3], parts, console, from_scratch=True)
    text = (result.stages[0].folder / "training_metadata.json").read_text()
    assert '"cached_features": {' in text
    model = load_model(result.stages[0].folder, frozen())
    encoders = {name.split(".")[0] for name, _ in model.named_parameters() if ".encoder." in name}
    assert encoders == {"points", "images"}
    with_features = session.windows[0].batches[0]
    assert with_features.points is None
    assert with_features.cloud_features is not None or with_features.image_features is not None
    assert model.loss(with_features)[1] > 0  # the projectors take both
    raw = raw_batch(session, parts)
    with pytest.raises(CadmllmError, match="data.features") as caught:
        session.model.loss(raw)
    assert caught.value.code == "E701"


def raw_batch(session: Session, parts: DataSet) -> Batch:
    """A batch with a cloud as points."""
    id_ = next(id_ for id_ in parts.ids if "point_cloud" in parts.modalities(id_))
    return session.collate([load_sample(parts, id_, "text+point_cloud", seed=0, stage=3, epoch=0, position=0, point_count=64)])


def test_a_killed_run_resumes_and_other_features_are_refused(frozen, parts, store, console, monkeypatch, tmp_path) -> None:
    straight = frozen(data={"features": store}, run={"dir": tmp_path / "straight"})
    loop.train(straight, [2], parts, console, from_scratch=True)
    broken = frozen(
        data={"features": store}, run={"dir": tmp_path / "broken"}, train={**straight.train.model_dump(), "save_steps": 2}
    )
    real, calls = squeeze.train_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(squeeze, "train_step", step)
        with pytest.raises(RuntimeError, match="power cut"):
            loop.train(broken, [2], parts, console, from_scratch=True)
    without = frozen(data={"draws": 3}, run={"dir": tmp_path / "broken"})
    with pytest.raises(CadmllmError, match=r"features\.points") as caught:
        loop.train(without, [2], parts, console, resume=True)
    assert caught.value.code == "E605"
    loop.train(broken, [2], parts, console, resume=True)
    assert losses(broken) == losses(straight)


def test_loader_processes_read_the_same(frozen, parts, store, console) -> None:
    s = frozen(data={"features": store})
    session = opened(s, parts, console)
    here = [window.batches for window in iterate(session.windows, 0, 0)]
    there = [window.batches for window in iterate(session.windows, 0, 2)]
    for one, two in zip(here, there, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.ids == b.ids
            for name in ("cloud_features", "image_features", "input_ids"):
                x, y = getattr(a, name), getattr(b, name)
                assert (x is None and y is None) or torch.equal(x, y)


class NoKernel:
    """In place of a workshop: builds nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> NoKernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, jobs: Sequence[object]) -> list[BuildResult]:
        return [BuildResult(Verdict.OK, "") for _ in jobs]


def test_the_judge_reads_the_store(frozen, parts, store, console, monkeypatch) -> None:
    s = frozen(data={"features": store})
    s.infer.max_new_tokens = 32
    session = opened(s, parts, console)
    ids = [id_ for id_ in parts.ids if {"point_cloud", "image"} <= parts.modalities(id_)][:4]
    monkeypatch.setattr(sampling, "Workshop", NoKernel)
    shares = sampling.validator(parts, Ids(np.array(ids, dtype="S")), s, 4, console)(session.model, session.stage)
    assert set(shares) == {"text", *session.stage.probabilities, "all"}


def test_in_16_bits_the_losses_agree_as_far_as_16_bits_do(frozen, parts, console, tmp_path) -> None:
    s = frozen(data={"features": tmp_path / "store"}, run={"dir": tmp_path / "a"})
    plain = frozen(data={"draws": 1}, run={"dir": tmp_path / "b"})
    s.dtype = plain.dtype = "bfloat16"
    encode(s, parts, tmp_path / "store", Options(), console)
    for run in (s, plain):
        loop.train(run, [3], parts, console, from_scratch=True)
    np.testing.assert_allclose(losses(s), losses(plain), rtol=5e-3)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"point_count": 128}, "point_count 64 there, 128 wanted"),
        ({"point_sampling": "farthest"}, "farthest None there, 4 wanted"),
        ({"point_tokens": 1}, "tokens 9 there, 1 wanted"),
        ({"point_tokens": 300}, "tokens 9 there, 300 wanted"),
        ({"image_tokens": 4}, "tokens 5 there, 4 wanted"),
        ({"image_bridge": "perceiver"}, "tokens 5 there, 64 wanted"),
    ],
)
def test_other_preprocessing_is_refused_by_name(frozen, parts, store, console, model, named) -> None:
    s = frozen(data={"features": store}, model=model)
    with pytest.raises(CadmllmError, match=named) as caught:
        loop.train(s, [3], parts, console, from_scratch=True)
    assert caught.value.code == "E470"
    assert f"cadmllm data encode {parts.data.root} --out {store} --" in caught.value.remedy
    assert not s.run.dir.exists()


def test_other_precision_and_more_draws_are_refused(frozen, parts, store, console) -> None:
    s = frozen(data={"features": store})
    s.dtype = "bfloat16"
    with pytest.raises(CadmllmError, match="computed in float32 there, bfloat16 wanted"):
        loop.train(s, [2], parts, console, from_scratch=True)
    with pytest.raises(CadmllmError, match="draws 3 there, 4 wanted") as caught:
        loop.train(frozen(data={"features": store, "draws": 4}), [2], parts, console, from_scratch=True)
    assert caught.value.code == "E470"
    fewer = frozen(data={"features": store, "draws": 2})
    loop.train(fewer, [2], parts, console, from_scratch=True)  # the first two of three


@pytest.mark.parametrize("what", ["points", "images"])
def test_other_weights_are_refused_and_the_same_in_another_file_are_not(
    frozen, parts, store, console, tmp_path, what, encoders
) -> None:
    if what == "points":
        other = {"points_checkpoint": make_michelangelo(tmp_path / "other.pt", seed=1)}
        state = torch.load(encoders / "points.pt", weights_only=True)
        torch.save({"state_dict": {f"model.shape_model.{name}": value for name, value in state.items()}}, tmp_path / "same.ckpt")
        same = {"points_checkpoint": tmp_path / "same.ckpt"}
    else:
        other = {"image_encoder": str(make_dino(tmp_path / "other", seed=1))}
        shutil.copytree(encoders / "dino", tmp_path / "same")
        (tmp_path / "same" / "config.json").write_text((encoders / "dino" / "config.json").read_text() + "\n")
        same = {"image_encoder": str(tmp_path / "same")}
    with pytest.raises(CadmllmError, match="encoder weights") as caught:
        loop.train(frozen(data={"features": store}, model=other), [3], parts, console, from_scratch=True)
    assert caught.value.code == "E470"
    assert "other" in caught.value.message
    loop.dry_run(
        frozen(data={"features": store}, model=same), [3], parts, console, from_scratch=True, resume=False, overwrite=False
    )


def test_trained_encoders_are_refused(frozen, parts, store, console) -> None:
    for model, named in (
        ({"points_encoder": "fourier"}, "model.points_encoder=fourier"),
        ({"image_encoder": "tiny"}, "model.image_encoder=tiny"),
        ({"train_encoders": True}, "model.train_encoders=true"),
    ):
        with pytest.raises(CadmllmError, match=named) as caught:
            loop.train(frozen(data={"features": store}, model=model), [3], parts, console, from_scratch=True)
        assert caught.value.code == "E472"
    with pytest.raises(CadmllmError) as caught:
        encode(
            frozen(model={"points_encoder": "fourier", "image_encoder": "tiny"}), parts, store.parent / "none", Options(), console
        )
    assert caught.value.code == "E472"


def test_a_cached_branch_beside_one_that_is_trained(frozen, parts, store, console, tmp_path) -> None:
    alone = tmp_path / "points alone"
    shutil.copytree(store / "points", alone / "points")
    model = {"image_encoder": "tiny", "image_bridge": "mlp", "image_tokens": 4}
    cached = frozen(data={"features": alone}, model=model, run={"dir": tmp_path / "a"})
    plain = frozen(data={"draws": 3}, model=model, run={"dir": tmp_path / "b"})
    for s in (cached, plain):
        loop.train(s, [3], parts, console, from_scratch=True)
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-4)
    frozen_too = frozen(data={"features": alone}, run={"dir": tmp_path / "c"})
    rehearse(frozen_too, parts, console)
    assert "has no features of views: their encoder is loaded and run" in console.err.getvalue()


@pytest.fixture
def own(parts, tmp_path) -> DataSet:
    """A copy of the parts that may be changed."""
    return open_dataset(parts.data.model_copy(update={"root": shutil.copytree(parts.data.root, tmp_path / "own")}))


def test_changed_and_new_files_are_noticed(frozen, own, console, tmp_path) -> None:
    store = tmp_path / "store"
    s = frozen(data={"root": own.data.root, "features": store})
    encode(s, own, store, Options(draws=1, dtype="float32"), console)

    def try_it(dataset: DataSet) -> None:
        rehearse(s, dataset, console)

    try_it(own)
    cloud, view = own.cloud_path("0000/00000007"), own.view_paths("0000/00000007")[3]
    os.utime(cloud)  # touched, not changed
    try_it(own)
    np.savez(cloud, points=np.random.default_rng(5).uniform(-1, 1, (300, 3)))
    with pytest.raises(CadmllmError, match="00000007.npz") as caught:
        try_it(own)
    assert caught.value.code == "E470"
    (report,) = encode(s, own, store, Options(parts=("points",), draws=1, dtype="float32"), console)
    assert (report.encoded, report.kept) == (1, 16)
    try_it(own)
    Image.new("RGB", (64, 64), (1, 2, 3)).save(view)
    with pytest.raises(CadmllmError, match="00000007_000.png") as caught:
        try_it(own)
    assert caught.value.code == "E470"
    encode(s, own, store, Options(draws=1, dtype="float32"), console)
    try_it(own)
    np.savez(own.data.root / "pcd/0000/00000003.npz", points=np.random.default_rng(5).uniform(-1, 1, (300, 3)))
    grown = open_dataset(own.data)
    with pytest.raises(CadmllmError, match="lacks the features of 1 of 18 ids, for instance 0000/00000003") as caught:
        try_it(grown)
    assert caught.value.code == "E471"
    (report,) = encode(s, grown, store, Options(parts=("points",), draws=1, dtype="float32"), console)
    assert (report.encoded, report.kept) == (1, 17)
    try_it(grown)


def test_a_broken_store_is_refused_and_mended(frozen, parts, store, console, tmp_path) -> None:
    for number, harm in enumerate((_cut, _flip, _remove, _unfinished, _no_header)):
        here = shutil.copytree(store, tmp_path / str(number))
        harm(here / "points")
        s = frozen(data={"features": here})
        with pytest.raises(CadmllmError) as caught:
            rehearse(s, parts, console)
        assert caught.value.code == "E471", harm
        assert str(here / "points") in caught.value.message
        encode(s, parts, here, Options(parts=("points",), draws=3, dtype="float32", verify=True), console)
        rehearse(s, parts, console)
        assert (here / "points" / "index.safetensors").read_bytes() == (store / "points" / "index.safetensors").read_bytes()
    with pytest.raises(CadmllmError, match="is no folder") as caught:
        loop.train(frozen(data={"features": tmp_path / "nowhere"}), [2], parts, console, from_scratch=True)
    assert caught.value.code == "E471"


def _cut(folder: Path) -> None:
    path = shard_paths(folder)[0]
    os.truncate(path, path.stat().st_size - 100)


def _flip(folder: Path) -> None:
    path = shard_paths(folder)[0]
    content = bytearray(path.read_bytes())
    content[-10_000] ^= 1
    path.write_bytes(content)


def _remove(folder: Path) -> None:
    shard_paths(folder)[0].unlink()


def _unfinished(folder: Path) -> None:
    (folder / "index.safetensors").unlink()


def _no_header(folder: Path) -> None:
    (folder / "index.safetensors").write_bytes(b"\xff" * 64)


def test_an_unreadable_cloud_is_shown_without_as_it_is_without_a_store(frozen, own, console, tmp_path) -> None:
    own.cloud_path("0000/00000010").write_bytes(b"PK\x03\x04 torn")
    own.view_paths("0000/00000010")[0].write_bytes(b"no picture")
    store = tmp_path / "store"
    reports = encode(frozen(data={"root": own.data.root}), own, store, Options(draws=2, dtype="float32"), console)
    assert [report.unreadable for report in reports] == [1, 1]
    assert "00000010.npz" in reports[0].problems[0]
    with_ = frozen(data={"root": own.data.root, "features": store}, run={"dir": tmp_path / "a"})
    without = frozen(data={"root": own.data.root, "draws": 2}, run={"dir": tmp_path / "b"})
    for s in (with_, without):
        loop.train(s, [3], own, console, from_scratch=True)
    np.testing.assert_allclose(losses(with_), losses(without), rtol=2e-5)
    assert losses(with_, "fell_back") == losses(without, "fell_back")
    again = encode(with_, own, store, Options(draws=2, dtype="float32"), console)
    assert [(report.encoded, report.unreadable) for report in again] == [(0, 1), (0, 1)]


def test_doctor_finds_what_training_would_refuse(frozen, parts, store, tmp_path) -> None:
    s = frozen(
        data={"features": store}, model={"points_checkpoint": tmp_path / "gone.pt", "image_encoder": str(tmp_path / "gone")}
    )
    checks = [check for check in CHECKS if check.name in ("points-encoder", "image-encoder", "features")]
    report = run_checks(Situation(s, (1, 2, 3)), checks=checks)
    assert report.ready
    assert "17 ids of points, 19 ids of images" in report.outcomes[-1][1].summary
    assert "data.features" in run_checks(Situation(frozen(), (3,)), checks=checks).outcomes[-1][1].skipped
    assert run_checks(Situation(s, (1,)), checks=checks).outcomes[-1][1].skipped
    stale = frozen(data={"features": store}, model={"point_count": 100})
    (finding,) = run_checks(Situation(stale, (2,)), checks=checks).findings
    assert (finding.code, finding.check) == ("E470", "features")
