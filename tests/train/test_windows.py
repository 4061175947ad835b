"""The data of a step is a pure function of (seed, stage, epoch, step)."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.pack import OVERHEAD, Room, cut
from cadmllm.corpus.scan import open_index
from cadmllm.corpus.synth import write_dataset
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings
from cadmllm.train.curriculum import plan_stages
from cadmllm.train.windows import Windows, iterate, refit, room_of


@pytest.fixture(scope="module")
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def _windows(settings, parts, tokenizer, stage: int = 3, room: Room | None = None) -> Windows:
    model = settings.model
    collate = Collator(tokenizer, len(tokenizer), model.point_tokens, model.image_tokens, settings.train.max_seq_length)
    return Windows(parts, parts.split()[0], plan_stages(settings, [stage])[0], settings, collate, room or room_of(settings, True))


def _same(a, b) -> bool:
    if a.mix != b.mix or len(a.batches) != len(b.batches):
        return False
    for x, y in zip(a.batches, b.batches, strict=True):
        if x.ids != y.ids or not torch.equal(x.input_ids, y.input_ids):
            return False
        for name in ("points", "pixels", "labels"):
            left, right = getattr(x, name), getattr(y, name)
            if (left is None) != (right is None) or (left is not None and not torch.equal(left, right)):
                return False
    return True


def test_any_step_can_be_had_at_once_and_again(settings, parts, tokenizer) -> None:
    s = settings()
    windows = _windows(s, parts, tokenizer)
    in_order = list(iterate(windows, 0, 0))
    assert [window.step for window in in_order] == list(range(len(windows)))
    late = _windows(s, parts, tokenizer)
    assert _same(late[4], in_order[4])
    assert _same(next(iter(iterate(late, 3, 0))), in_order[3])


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order(settings, parts, tokenizer) -> None:
    windows = _windows(settings(stages={"1": {"epochs": 2}}), parts, tokenizer, stage=1)
    ids = [[i for batch in window.batches for i in batch.ids] for window in iterate(windows, 0, 0)]
    assert windows.steps_per_epoch == 6
    assert len(windows) == 12
    first, second = sum(ids[:6], []), sum(ids[6:], [])
    assert sorted(first) == sorted(second) == windows.ids
    assert first != second
    assert Counter(map(len, ids[:6])) == {4: 5, 2: 1}  # 22 samples: the last window is smaller


def test_other_seeds_and_stages_give_other_orders(settings, parts, tokenizer) -> None:
    s = settings()
    one = _windows(s, parts, tokenizer, stage=2).positions(0)
    assert one == _windows(s, parts, tokenizer, stage=2).positions(0)
    assert one != _windows(s, parts, tokenizer, stage=3).positions(0)
    assert one != _windows(settings(train={"seed": 7}), parts, tokenizer, stage=2).positions(0)


def test_the_mix_and_what_falls_back_are_counted(settings, parts, tokenizer) -> None:
    only = {"text": 0.0, "text+point_cloud": 1.0}
    windows = _windows(settings(stages={"2": {"epochs": 1, "probabilities": only}}), parts, tokenizer, stage=2)
    found = list(iterate(windows, 0, 0))
    without = sum("point_cloud" not in parts.modalities(i) for i in windows.ids)
    assert without > 0
    assert sum(window.fell_back for window in found) == without
    assert windows.expected_fallbacks() == (without, 22)
    assert sum((window.mix for window in found), Counter()) == {"text": without, "text+point_cloud": 22 - without}


def test_packed_and_padded_windows_show_the_same_samples(settings, parts, tokenizer) -> None:
    s = settings()
    packed, padded = _windows(s, parts, tokenizer), _windows(s, parts, tokenizer, room=room_of(s, False))
    for a, b in zip(iterate(packed, 0, 0), iterate(padded, 0, 0), strict=True):
        assert (a.mix, a.fell_back) == (b.mix, b.fell_back)
        assert sorted(i for batch in a.batches for i in batch.ids) == sorted(i for batch in b.batches for i in batch.ids)
        assert sum(batch.supervised for batch in a.batches) == sum(batch.supervised for batch in b.batches)
        assert sum(batch.tokens for batch in a.batches) == sum(batch.tokens for batch in b.batches)
        assert all(batch.computed == batch.tokens and len(batch.input_ids) == 1 for batch in a.batches)
    assert room_of(settings(train={"packing": False, "batch_size": 2}), True) == Room(0, 2)
    assert room_of(settings(train={"pack_tokens": 100}), True).tokens == 100


@pytest.mark.parametrize("room", [Room(150, 4), Room(0, 1)])
def test_refitted_windows_hold_the_same_in_a_smaller_room(settings, parts, tokenizer, room: Room) -> None:
    windows = _windows(settings(), parts, tokenizer, room=Room(room.tokens and 2000, 4))
    for window in iterate(windows, 0, 0):
        fitted = refit(window.batches, room)
        assert [i for batch in fitted for i in batch.ids] == [i for batch in window.batches for i in batch.ids]
        assert all(len(b.ids) == 1 or (b.tokens <= room.tokens if room.packed else len(b.ids) <= room.samples) for b in fitted)
        for name in ("points", "pixels"):
            parts_of = [getattr(batch, name) for batch in fitted if getattr(batch, name) is not None]
            whole = [getattr(batch, name) for batch in window.batches if getattr(batch, name) is not None]
            assert len(parts_of) == 0 or torch.equal(torch.cat(parts_of), torch.cat(whole))


def test_shares_of_the_processes_are_the_window(settings, parts, tokenizer) -> None:
    whole = _windows(settings(), parts, tokenizer)
    halves = [_windows(settings(), parts, tokenizer) for _ in range(2)]
    for k, half in enumerate(halves):
        half.share = lambda items, cost, k=k: [item for at, item in enumerate(items) if at % 2 == k]
    for step in range(len(whole)):
        ids = sorted(i for half in halves for batch in half[step].batches for i in batch.ids)
        assert ids == sorted(i for batch in whole[step].batches for i in batch.ids)
        assert halves[0][step].mix + halves[1][step].mix == whole[step].mix


def test_max_steps_ends_a_stage(settings, parts, tokenizer) -> None:
    assert len(_windows(settings(train={"max_steps": 4}), parts, tokenizer)) == 4
    assert len(_windows(settings(train={"max_steps": 400}), parts, tokenizer)) == 6


def test_loader_processes_give_the_same_and_leave_the_random_state_alone(settings, parts, tokenizer) -> None:
    windows = _windows(settings(), parts, tokenizer, stage=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = list(iterate(windows, 2, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(_same(window, windows[window.step]) for window in found)
    assert [window.step for window in found] == [2, 3, 4, 5]


def _cost(lengths: list[int], cuts: list[int]) -> int:
    return sum((b - a) * lengths[b - 1] + OVERHEAD for a, b in zip(cuts, cuts[1:], strict=False))


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=7), st.integers(1, 4))
def test_windows_are_cut_as_cheaply_as_any_cut_is(lengths: list[int], largest: int) -> None:
    lengths.sort()
    cuts = cut(lengths, largest)
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    assert all(0 < b - a <= largest for a, b in zip(cuts, cuts[1:], strict=False))
    every = range(1 << (len(lengths) - 1))
    choices = [[0, *(k + 1 for k in range(len(lengths) - 1) if mask >> k & 1), len(lengths)] for mask in every]
    allowed = [c for c in choices if all(b - a <= largest for a, b in zip(c, c[1:], strict=False))]
    assert _cost(lengths, cuts) == min(_cost(lengths, c) for c in allowed)


def test_a_long_sample_does_not_pad_the_others() -> None:
    assert cut([50, 52, 55, 60, 62, 65, 70, 420], 8) == [0, 7, 8]
    assert cut([50, 52, 55, 60], 4) == [0, 4]
    assert cut([50, 52, 55, 60], 2) == [0, 2, 4]


@pytest.fixture
def set_on_disk(tmp_path):
    """A folder of 12 parts."""
    write_dataset(tmp_path / "set", 12, 1)
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_can_no_longer_be_read_costs_its_sample_and_is_said(settings, set_on_disk, tokenizer, workers) -> None:
    parts = open_dataset(DataSettings(root=set_on_disk, val_share=0.0))
    windows = _windows(settings(train={"max_seq_length": 200}), parts, tokenizer, stage=1)
    gone, longer, *_ = windows.ids
    parts.program_path(gone).unlink()
    many = max(parts.ids, key=parts.length)
    windows.longest = parts.length(many) - 1
    shutil.copy(parts.program_path(many), parts.program_path(longer))
    windows.ids = [id_ for id_ in windows.ids if id_ != many]
    seen = list(iterate(windows, 0, workers))
    lost = {problem.where: problem.code for window in seen for problem in window.problems}
    assert lost == {gone: "E201", longer: "E602"}
    assert sum(window.lost for window in seen) == 2
    shown = [i for window in seen for batch in window.batches for i in batch.ids]
    assert sorted(shown) == [id_ for id_ in windows.ids if id_ not in lost]


def test_a_check_in_between_changes_nothing_that_is_shown(settings, parts, tokenizer, tmp_path) -> None:
    root = tmp_path / "set"
    shutil.copytree(parts.data.root, root)
    (root / "pcd/0000/00000005.npz").write_bytes(b"not points")
    (root / "img/0000/00000007_003.png").write_bytes(b"not a picture")
    s = settings(model={"image_views": 2}, stages={"3": {"probabilities": {"text+point_cloud+image": 1.0}, "epochs": 1}})
    data = DataSettings(root=root)
    before = list(iterate(_windows(s, open_dataset(data), tokenizer), 0, 0))
    open_index(data, contents=True)
    checked = open_dataset(data)
    assert checked.modality_counts(checked.ids) != checked.counts, "the check has found what is broken"
    after = list(iterate(_windows(s, checked, tokenizer), 0, 0))
    assert all(_same(a, b) for a, b in zip(before, after, strict=True))
    assert [window.fell_back for window in before] == [window.fell_back for window in after]
    assert {problem.where for window in after for problem in window.problems} >= {"0000/00000005"}


def test_a_data_set_that_is_gone_ends_the_run(settings, set_on_disk, tokenizer) -> None:
    parts = open_dataset(DataSettings(root=set_on_disk, val_share=0.0))
    windows = _windows(settings(), parts, tokenizer, stage=1)
    shutil.rmtree(set_on_disk / "json")
    with pytest.raises(CadmllmError, match="none of its 4 samples"):
        windows[1]


class Trouble:
    """Windows of which the second does not come as the first did."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 3

    def __getitem__(self, step: int) -> int:
        if step == 1 and self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 1 and self.what == "hangs":
            time.sleep(30)
        if step == 1 and self.what == "no room":
            raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")
        if step == 1:
            raise ValueError("a mistake of ours")
        return step


@pytest.mark.parametrize(
    ("what", "said"), [("killed", "DataLoader worker (pid"), ("hangs", "timed out"), ("no room", "No space left")]
)
def test_a_loader_that_is_lost_is_an_error_that_says_what_mends_it(monkeypatch, what: str, said: str) -> None:
    monkeypatch.setattr("cadmllm.train.windows.STUCK", 2)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # what torch waits for a process to end
    with pytest.raises(CadmllmError) as caught:
        list(iterate(Trouble(what), 0, workers=1, prefetch=1))
    assert caught.value.code == "E614"
    assert said in caught.value.message
    assert "train.workers=0" in caught.value.remedy
    assert not multiprocessing.active_children(), "one that hangs keeps this process from ending"


def test_other_errors_of_a_loader_are_their_own() -> None:
    found = iterate(Trouble("mistake"), 0, workers=1, prefetch=1)
    assert next(found) == 0
    with pytest.raises(ValueError, match="a mistake of ours"):
        next(found)
