"""Points as text: whatever programs write, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus.limits import TooMany
from cadmllm.corpus.points import load_cloud, read_cloud
from cadmllm.corpus.xyz import read_text
from cadmllm.errors import CadmllmError

POINTS = np.round(np.random.default_rng(0).uniform(-50, 50, (40, 3)), 3)
UP = np.tile([0.0, 0.6, 0.8], (40, 1))
RGB = np.random.default_rng(1).integers(0, 256, (40, 3))


def rows(*parts: np.ndarray, mark: str = " ", comma: bool = False) -> str:
    table = np.hstack(parts)
    lines = [mark.join(repr(float(v)) for v in row) for row in table]
    text = "\n".join(lines) + "\n"
    return text.replace(".", ",") if comma else text


@pytest.mark.parametrize(
    "text",
    [
        rows(POINTS),
        rows(POINTS, mark="\t"),
        rows(POINTS, mark=","),
        rows(POINTS, mark=", "),
        rows(POINTS, mark=";"),
        rows(POINTS, mark=";", comma=True),
        rows(POINTS, comma=True),
        rows(POINTS).replace("\n", "\r\n"),
        rows(POINTS).replace("\n", "\r"),
        rows(POINTS).replace("\n", " \n\n"),
        "\ufeff" + rows(POINTS),
        "40\n" + rows(POINTS),
        "# made by a test\n\n// 1 2 3\n; remark\n" + rows(POINTS) + "# end\n",
        "x,y,z\n" + rows(POINTS, mark=","),
        "//X Y Z\n" + rows(POINTS),
        "X;Y;Z\n" + rows(POINTS, mark=";"),
        rows(POINTS, mark=",").replace("\n", ",\n"),
    ],
)
def test_layouts(text: str) -> None:
    points, normals, notes = read_text(text.encode())
    assert np.array_equal(points, POINTS)
    assert normals is None
    assert notes == ()


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (rows(POINTS, UP), True),
        (rows(POINTS, RGB, UP), True),
        ("x y z nx ny nz\n" + rows(POINTS, UP), True),
        ("//X,Y,Z,R,G,B,Nx,Ny,Nz\n" + rows(POINTS, RGB, UP, mark=","), True),
        ("x y z intensity normal_x normal_y normal_z\n" + rows(POINTS, RGB[:, :1], UP), True),
        (rows(POINTS, RGB), False),
        (rows(POINTS, RGB[:, :1]), False),
        (rows(POINTS, RGB, RGB), False),
        ("40\n" + rows(POINTS, RGB[:, :1], RGB), False),  # Leica's .pts
        (rows(POINTS, np.zeros((40, 3))), False),
    ],
)
def test_further_columns(text: str, has: bool) -> None:
    points, normals, notes = read_text(text.encode())
    assert np.array_equal(points, POINTS)
    assert (normals is not None) == has
    if has:
        assert np.array_equal(normals, UP)
    columns = len(text.splitlines()[-1].replace(",", " ").split())
    assert bool(notes) == (columns != (6 if has else 3))


def test_named_columns_in_another_order() -> None:
    points, normals, _ = read_text(("id;z;y;x\n" + rows(RGB[:, :1], POINTS[:, ::-1], mark=";")).encode())
    assert np.array_equal(points, POINTS)
    assert normals is None


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"3\nwater\nO 0.0 0.0 0.1\nH 0.0 0.7 0.5\n", ValueError),  # a molecule
        (b"hello world\n", ValueError),
        (b"1 2\n3 4\n", ValueError),
        (b"1 2 3\n4 5\n", ValueError),
        (b"1 2 3\n4 five 6\n", ValueError),
        (b"# nothing but remarks\n", ValueError),
        (rows(POINTS).encode("utf-16"), ValueError),
        (b"1 2 3 " * 10_000, ValueError),
        (b"\x00\x01\x02binary", ValueError),
        (rows(POINTS).encode() + b"1.0 2", EOFError),
        (b"41\n" + rows(POINTS).encode(), EOFError),
        (b"39\n" + rows(POINTS).encode(), ValueError),
        (b"1000000000\n" + rows(POINTS).encode(), TooMany),
        (b"99999999999999999999999999\n" + rows(POINTS).encode(), TooMany),
    ],
)
def test_what_is_no_table_is_refused(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_text(raw)


def test_more_rows_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadmllm.corpus.limits.MOST_POINTS", 39)
    with pytest.raises(TooMany, match="40"):
        read_text(rows(POINTS).encode())


@pytest.mark.parametrize("suffix", [".xyz", ".XYZ", ".txt", ".csv", ".asc", ".pts"])
def test_files(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text(rows(POINTS, UP))
    cloud = load_cloud(tmp_path / f"a{suffix}", 40, 0)
    assert np.allclose(sorted(cloud.transform.invert(cloud.points).tolist()), sorted(POINTS.tolist()), atol=1e-4)
    assert np.allclose(cloud.normals, UP[0])
    (tmp_path / f"a{suffix}").write_text(rows(POINTS) + "nan nan nan\n")
    with pytest.raises(CadmllmError) as caught:
        read_cloud(tmp_path / f"a{suffix}")
    assert caught.value.code == "E431"


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text("0123456789.,;- eEnax#\n\t", max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        points, _, _ = read_text(raw)
    except (ValueError, EOFError):
        return
    assert points.ndim == 2
    assert points.shape[1] == 3
