"""Sides of ids: whole groups, the same every time, stable where the data set grows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus.adopt import adopt
from cadmllm.corpus.duplicates import LEVELS, connect
from cadmllm.corpus.split import FEW, NOWHERE, TEST, TRAIN, VAL, Division, Rules, divide, find_groups, near_rows
from cadmllm.corpus.splitfiles import SIDES, Official
from cadmllm.errors import CadmllmError

WIDTH = LEVELS["drawing"]


def data_set(owners: list[int], salt: int = 0) -> tuple[list[str], np.ndarray]:
    """Ids and signatures; ids of one owner share their last signature with the next one of that owner."""
    rng = np.random.default_rng(salt)
    marks = rng.integers(2**32, 2**63, (len(owners), WIDTH), dtype=np.uint64)
    latest: dict[int, int] = {}
    for row, owner in enumerate(owners):
        if owner in latest:
            marks[row, WIDTH - 2] = marks[latest[owner], WIDTH - 1]
        latest[owner] = row
    return [f"0000/{row:06d}" for row in range(len(owners))], marks


def alike(count: int, narrow: int, salt: int = 1) -> np.ndarray:
    """Signatures of one family: all share a drawing, blocks of `narrow` of them are one solid."""
    marks = data_set(list(range(count)), salt)[1]
    marks[:, LEVELS["solid"]] = 7 + salt
    marks[:, LEVELS["copy"]] = 10**6 * salt + np.arange(count) // narrow
    return marks


owners_of = st.lists(st.integers(0, 25), min_size=6, max_size=60).filter(lambda found: len(set(found)) >= 3)
rules_of = st.builds(
    Rules, near=st.sampled_from(tuple(LEVELS)), val=st.floats(0.01, 0.4), test=st.floats(0.01, 0.4), seed=st.integers(0, 99)
)


@settings(deadline=None)
@given(owners_of, rules_of)
def test_every_id_has_one_side_and_every_group_too(owners: list[int], rules: Rules):
    ids, marks = data_set(owners)
    found = divide(ids, marks, rules)
    lists = found.lists()
    assert sorted(id_ for side in SIDES for id_ in lists[side]) == ids
    assert all(lists[side] and lists[side] == sorted(lists[side]) for side in SIDES)
    groups = connect(marks[:, : LEVELS[rules.near]])
    assert len({(g, s) for g, s in zip(groups.tolist(), found.sides.tolist(), strict=True)}) == groups.max() + 1
    report = found.report()
    assert all(number[rules.near] == 0 for number in report["overlap"].values())
    assert sum(report["counts"].values()) == len(ids)
    json.dumps(report)


@settings(deadline=None)
@given(owners_of, rules_of, st.randoms(use_true_random=False))
def test_a_side_depends_on_content_not_on_names_or_order(owners: list[int], rules: Rules, dice):
    ids, marks = data_set(owners)
    first = divide(ids, marks, rules)
    again = divide(ids, marks, rules)
    assert np.array_equal(first.sides, again.sides)
    order = dice.sample(range(len(ids)), len(ids))
    other = divide([f"9999/{k}" for k in range(len(ids))], marks[order], rules)
    assert other.sides.tolist() == first.sides[order].tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(0, 99))
def test_ids_keep_their_side_when_others_come(newcomers: list[int], seed: int):
    ids, marks = data_set([k // 2 for k in range(400)])
    rules = Rules(seed=seed)
    more = np.concatenate([marks, data_set(newcomers, salt=2)[1]])
    assert len(connect(more)) == len(ids) + len(newcomers)
    before, after = divide(ids, marks, rules), divide([*ids, *(f"1/{k}" for k in range(len(newcomers)))], more, rules)
    assert after.sides[: len(ids)].tolist() == before.sides.tolist()


@pytest.mark.parametrize("size", [200, 1000, 20_000])
def test_the_shares_hold(size: int):
    rng = np.random.default_rng(size)
    ids, marks = data_set(rng.integers(0, size // 2, size).tolist())
    shares = []
    for seed in range(8):
        sides = divide(ids, marks, Rules(val=0.1, test=0.2, seed=seed)).sides
        shares.append([(sides == VAL).mean(), (sides == TEST).mean()])
    assert np.allclose(np.mean(shares, axis=0), [0.1, 0.2], atol=1.5 / np.sqrt(8 * size))
    assert np.allclose(shares, [[0.1, 0.2]] * 8, atol=4 / np.sqrt(size))


def test_another_seed_another_split():
    ids, marks = data_set(list(range(300)))
    one, two = (divide(ids, marks, Rules(seed=seed)).sides for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_a_dense_group_is_divided_by_a_narrower_meaning_of_near():
    many = FEW + 18
    marks = np.concatenate([alike(many, 2), data_set(list(range(100)), 5)[1]])
    groups = find_groups(marks, Rules())
    assert groups.levels[groups.numbers].tolist() == [1] * many + [2] * 100
    assert sorted(groups.sizes.tolist()) == [1] * 100 + [2] * (many // 2)
    assert not groups.dense.any()
    strict = find_groups(marks, Rules(strict=True))
    assert strict.dense.tolist() == [True] + [False] * 100
    found = divide([str(k) for k in range(len(marks))], marks, Rules(strict=True, val=0.3, test=0.3))
    assert set(found.sides[:many].tolist()) == {TRAIN}
    assert found.report()["overlap"]["train in test"]["drawing"] == 0
    assert (found.sides != TRAIN).mean() > 0.4  # the others make up for it
    assert found.report()["dense"] == [{"ids": many, "first": "0"}]


def test_so_many_copies_train():
    marks = alike(FEW + 10, 1)
    marks[:, 0] = 5
    marks = np.concatenate([marks, data_set(list(range(50)), 3)[1]])
    found = divide([str(k) for k in range(len(marks))], marks, Rules(seed=4))
    assert set(found.sides[: FEW + 10].tolist()) == {TRAIN}
    assert found.report()["dense"][0]["ids"] == FEW + 10


@pytest.mark.parametrize("owners", [[0, 0, 0], [0, 0, 1], []])
def test_too_few_groups_are_refused(owners: list[int]):
    with pytest.raises(CadmllmError) as caught:
        divide(*data_set(owners), Rules())
    assert caught.value.code == "E406"


def test_a_side_of_share_zero_is_empty():
    found = divide(*data_set(list(range(40))), Rules(test=0.0))
    assert found.lists()["test"] == []
    assert found.lists()["val"]


# published lists


@pytest.fixture
def owners() -> list[int]:
    return [k // 3 for k in range(60)]


def official(ids: list[str], **rows: range) -> Official:
    return Official({side: {ids[k] for k in found} for side, found in rows.items()}, ["split.json"])


def adopted(owners: list[int], rules: Rules | None = None, **rows: range) -> tuple[Division, np.ndarray]:
    ids, marks = data_set(owners)
    return adopt(ids, marks, rules or Rules(), official(ids, **rows)), marks


def test_test_ids_stay_and_what_duplicates_them_goes(owners: list[int]):
    found, marks = adopted(owners, train=range(40), val=range(40, 50), test=range(50, 60))
    assert (found.sides == TEST).sum() == 10
    assert {TRAIN, VAL, TEST, NOWHERE} == set(found.sides.tolist())
    for strong, weak in ((TEST, VAL), (TEST, TRAIN), (VAL, TRAIN)):
        assert not (near_rows(marks, np.flatnonzero(found.sides == strong)) & (found.sides == weak)).any()
    # 49 (val) is of the group 48..50 and 51 is not; 39 (train) of 39..41
    assert found.twins == [("0000/000039", "train", "0000/000040"), ("0000/000049", "val", "0000/000050")]
    assert found.report()["counts"] == {"train": 39, "val": 9, "test": 10, "left_out": 2}


def test_duplicates_can_be_kept_and_are_counted(owners: list[int]):
    found, _ = adopted(owners, Rules(keep_duplicates=True), train=range(40), val=range(40, 50), test=range(50, 60))
    assert [(found.sides == side).sum() for side in (TRAIN, VAL, TEST)] == [40, 10, 10]
    assert found.twins == []
    overlap = found.report()["overlap"]
    assert overlap["val in test"] == {"copy": 0, "solid": 0, "drawing": 1}
    assert overlap["train in val"] == {"copy": 0, "solid": 0, "drawing": 1}


def test_sides_that_are_not_named_are_drawn_from_the_rest(owners: list[int]):
    found, marks = adopted(owners, Rules(val=0.2), test=range(10))
    assert found.unlisted == 0
    assert (found.sides == TEST).sum() == 10
    assert (found.sides == VAL).any()
    groups = connect(marks)
    assert not set(groups[found.sides == VAL]) & set(groups[found.sides != VAL])
    assert found.twins == [("0000/000010", "train", "0000/000009")]


def test_ids_that_no_list_names_are_counted(owners: list[int]):
    found, _ = adopted(owners, train=range(20), val=range(30, 33), test=range(33, 36))
    assert found.unlisted == 60 - 26
    assert sum(found.report()["counts"].values()) == 26


def test_unknown_ids_are_counted_and_none_known_is_refused(owners: list[int]):
    ids, marks = data_set(owners)
    published = official(ids, test=range(5))
    published.lists["test"].add("0000/elsewhere")
    assert adopt(ids, marks, Rules(), published).unknown == {"test": 1}
    with pytest.raises(CadmllmError, match="0000/elsewhere") as caught:
        adopt(ids, marks, Rules(), Official({"test": {"0000/elsewhere"}}, ["x"]))
    assert caught.value.code == "E490"


def test_dense_families_lose_copies_alone():
    marks = np.concatenate([alike(FEW + 18, 2), data_set(list(range(20)), 5)[1]])
    ids = [f"{k:03d}" for k in range(len(marks))]
    found = adopt(ids, marks, Rules(val=0.0), official(ids, test=range(1)))
    assert found.twins == [("001", "train", "000")]


@settings(deadline=None)
@given(owners_of, rules_of, st.data())
def test_published_lists_never_leak(owners: list[int], rules: Rules, data):
    ids, marks = data_set(owners)
    sides = data.draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids)))
    lists = {name: {id_ for id_, s in zip(ids, sides, strict=True) if s == side} for side, name in enumerate(SIDES)}
    if not any(lists.values()):
        return
    found = adopt(ids, marks, rules, Official(lists, ["x"]))
    assert found.lists()["test"] == sorted(lists["test"])
    for side in SIDES:
        assert set(found.lists()[side]) <= lists[side]
        lost = {id_ for id_, name, _ in found.twins if name == side}
        assert lost | set(found.lists()[side]) == lists[side]
    assert all(number[rules.near] == 0 for number in found.report()["overlap"].values())
