"""Settings written into a TOML file: read back they are the old values plus the new ones, and nothing else changed."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.tomlfile import edited, set_values, to_toml

FILE = """# my run
preset = "16gb"  # the card

[train]
batch_size = 2 # the guide's
# a note about nothing
save_steps = 100

[stages]
2.lr = 2e-4

[data]
root = 'W:\\data'
"""

NAMES = st.sampled_from(["a", "b", "c", "2", "with space", 'qu"ote', "é"])
PLAIN = st.sampled_from(["a", "b", "c", "2", "d-e"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["# no", "'", '"""', "x = [", "\\", "C:\\d"]
)
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    TEXTS,
)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(NAMES, LEAVES, max_size=2)
TREES = st.recursive(
    LEAVES | st.lists(LEAVES, max_size=3), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=12
)


@st.composite
def documents(draw) -> tuple[str, bool]:
    """TOML in every style (headers, inline tables, arrays over lines, arrays of tables, comments); and has it dotted keys?"""
    data = draw(st.dictionaries(NAMES, TREES, max_size=4))
    lines: list[str] = []
    dotted = False

    def spell(name: str) -> str:
        return to_toml({name: 0}).strip("{} ").rpartition(" =")[0]

    def values(table: dict, before: str) -> dict:
        """Writes plain values; gives the tables that are to have headers."""
        nonlocal dotted
        later = {}
        for name, value in table.items():
            key = before + spell(name)
            how = draw(st.sampled_from(["header", "inline", "dotted"])) if isinstance(value, dict) and value else "value"
            if how == "header" and not before:
                later[name] = value
            elif how == "dotted":
                dotted = True
                assert not values(value, key + ".")
            else:
                text = to_toml(value)
                if isinstance(value, list) and value and draw(st.booleans()):
                    text = "[ # a list\n  " + ",\n  ".join(to_toml(part) for part in value) + ", # ]\n]"
                lines.append(f"{draw(st.sampled_from(['', '  ']))}{key} = {text}{draw(st.sampled_from(['', ' # [x] = 1']))}")
        return later

    def tables(table: dict, path: tuple[str, ...]) -> None:
        for name, below in values(table, "").items():
            lines.append(draw(st.sampled_from(["", "# about a table"])))
            lines.append("[" + ".".join(spell(part) for part in (*path, name)) + "]")
            tables(below, (*path, name))

    tables(data, ())
    if draw(st.booleans()):
        lines += ["[[many]]", "a = 1", "[[many]]", "a.b = 2", "[many.c]", "d = 3"]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join("\n".join(lines).split("\n")) + draw(st.sampled_from(["", end])), dotted


def merged(data: dict, key: list[str], value: object) -> dict | None:
    if len(key) == 1:
        return {**data, key[0]: value}
    below = data.get(key[0], {})
    inner = merged(below, key[1:], value) if isinstance(below, dict) else None
    return None if inner is None else {**data, key[0]: inner}


@settings(max_examples=300, deadline=None)
@given(documents(), st.lists(PLAIN, min_size=1, max_size=4), VALUES)
def test_read_back_it_is_the_old_values_plus_the_new_one(document, key, value):
    text, dotted = document
    old = tomllib.loads(text)
    expected = merged(old, key, value)
    try:
        new, changed = edited(text, {".".join(key): value})
    except CadmllmError as error:
        there = old
        for name in key:
            there = there.get(name) if isinstance(there, dict) else there
        # refused where no table is in the way, a table would be replaced, or tomlkit loses its way among dotted keys
        assert error.code == "E104"
        assert expected is None or isinstance(there, dict) or dotted
        return
    assert tomllib.loads(new) == expected
    for comment in ("# about a table", "# [x] = 1"):
        assert new.count(comment) == text.count(comment)
    if not changed:
        assert new == text
    else:
        again, nothing = edited(new, {".".join(key): value})
        assert (again, nothing) == (new, [])


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_value_is_written_as_toml_reads_it(value):
    assert tomllib.loads(f"x = {to_toml(value)}")["x"] == value


def test_everything_else_stays(tmp_path):
    path = tmp_path / "cadmllm.toml"
    path.write_text(FILE)
    values = {"train.batch_size": 1, "train.accumulation": 64, "stages.2.epochs": 1, "model.quantization": "nf4", "seed": 1}
    assert set_values(path, values) == [
        "train.batch_size = 1 (was 2)",
        "train.accumulation = 64",
        "stages.2.epochs = 1",
        'model.quantization = "nf4"',
        "seed = 1",
    ]
    assert path.read_text() == (
        FILE.replace("batch_size = 2 #", "batch_size = 1 #")
        .replace("save_steps = 100\n", "save_steps = 100\naccumulation = 64\n")
        .replace("2.lr = 2e-4\n", "2.lr = 2e-4\n2.epochs = 1\n")
        .replace("# the card\n", "# the card\nseed = 1\n")
        + '\n[model]\nquantization = "nf4"\n'
    )
    assert (tmp_path / "cadmllm.toml.bak").read_text() == FILE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cadmllm.toml", "cadmllm.toml.bak"]


def test_what_stands_there_already_is_not_written_again(tmp_path):
    path = tmp_path / "cadmllm.toml"
    path.write_text(FILE)
    assert set_values(path, {"train.batch_size": 2, "stages.2.lr": 2e-4, "data.root": "W:\\data"}) == []
    assert not (tmp_path / "cadmllm.toml.bak").exists()


def test_a_file_is_made(tmp_path):
    path = tmp_path / "new" / "cadmllm.toml"
    assert set_values(path, {"data.root": tmp_path, "train.pack_tokens": 4096, "train.packing": True}) != []
    assert tomllib.loads(path.read_text()) == {
        "data": {"root": str(tmp_path)},
        "train": {"pack_tokens": 4096, "packing": True},
    }
    assert not path.with_name("cadmllm.toml.bak").exists()


@pytest.mark.parametrize(
    ("text", "key"),
    [("train = 1\n", "train.batch_size"), ("[[train]]\na = 1\n", "train.batch_size"), ("[train]\nbatch_size = 1\n", "train")],
)
def test_what_is_in_the_way_is_said_and_nothing_written(tmp_path, text, key):
    path = tmp_path / "cadmllm.toml"
    path.write_text(text)
    with pytest.raises(CadmllmError) as caught:
        set_values(path, {key: 4})
    assert caught.value.code == "E104"
    assert f"{key} = 4" in caught.value.remedy
    assert [p.read_text() for p in tmp_path.iterdir()] == [text]


def test_a_broken_file_is_left_alone(tmp_path):
    path = tmp_path / "cadmllm.toml"
    path.write_text("[train\n")
    with pytest.raises(CadmllmError) as caught:
        set_values(path, {"train.batch_size": 4})
    assert caught.value.code == "E104"
    assert path.read_text() == "[train\n"
