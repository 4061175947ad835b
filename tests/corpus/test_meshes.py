"""Mesh files of every kind: their triangles, their units and sides, and files that lie or reach outside themselves."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.mesh import Mesh, glb_bytes, stl_bytes
from cadmllm.corpus.meshes import Surface, is_mesh, raw_cloud, read_surface, surface_of
from cadmllm.errors import CadmllmError

PART = trimesh.creation.annulus(5.0, 10.0, 4.0, sections=16)
PART.apply_translation([30.0, -20.0, 7.0])
LOW, HIGH = np.array([20.0, -30.0, 5.0]), np.array([40.0, -10.0, 9.0])
MM = (LOW, HIGH)
METRES = (np.array([20_000.0, -9_000.0, -30_000.0]), np.array([40_000.0, -5_000.0, -10_000.0]))  # (x, -z, y) of it


def exported(kind: str) -> bytes:
    if kind == "gltf":
        return trimesh.Scene(PART).export(file_type="gltf", embed_buffers=True)["model.gltf"]
    if kind == "ply text":
        return PART.export(file_type="ply", encoding="ascii")
    if kind == "3mf":
        return threemf(model(object_of(1, PART) + '<build><item objectid="1"/></build>'))
    found = PART.export(file_type="stl_ascii" if kind == "stl text" else kind)
    return found.encode() if isinstance(found, str) else found


def object_of(number: int, mesh: trimesh.Trimesh) -> str:
    vertices = "".join(f'<vertex x="{x!r}" y="{y!r}" z="{z!r}"/>' for x, y, z in mesh.vertices.tolist())
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh.faces.tolist())
    return f'<object id="{number}"><mesh><vertices>{vertices}</vertices><triangles>{faces}</triangles></mesh></object>'


def model(content: str, unit: str = "", head: str = "") -> str:
    resources, build, items = content.partition("<build>")
    space = 'xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"'
    said = f' unit="{unit}"' if unit else ""
    return f'<?xml version="1.0"?>{head}<model{said} {space}><resources>{resources}</resources>{build}{items}</model>'


def threemf(text: str, **others: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("3D/3dmodel.model", text)
        for name, content in others.items():
            archive.writestr(name, content)
    return file.getvalue()


def read(raw: bytes | str, name: str = "a.stl") -> Surface:
    return read_surface(raw.encode() if isinstance(raw, str) else raw, Path(name))


def refused(code: str, raw: bytes | str, name: str = "a.stl") -> str:
    with pytest.raises(CadmllmError) as caught:
        read(raw, name)
    assert caught.value.code == code, caught.value
    assert name in caught.value.message
    return caught.value.message


def volume(mesh: Mesh) -> float:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume


KINDS = ("stl", "stl text", "obj", "off", "ply", "ply text", "glb", "gltf", "3mf")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind: str) -> None:
    found = read(exported(kind), f"A.{kind.split()[0].upper()}")
    metres = kind in ("glb", "gltf")
    low, high = METRES if metres else MM
    size = 1000.0 if metres else 1.0
    assert np.allclose(found.mesh.box[0], low, atol=1e-3 * size)
    assert np.allclose(found.mesh.box[1], high, atol=1e-3 * size)
    assert len(found.mesh.faces) == len(PART.faces)
    assert volume(found.mesh) == pytest.approx(PART.volume * size**3, rel=1e-4)
    assert (found.millimetres, found.unit) == {
        "glb": (1000.0, "meter"),
        "gltf": (1000.0, "meter"),
        "3mf": (1.0, "millimeter"),
    }.get(kind, (None, None))


def test_our_own_files_come_back() -> None:
    zeros = np.zeros(len(PART.faces), np.int32)
    mesh = Mesh(PART.vertices, PART.faces.astype(np.int32), zeros, zeros)
    for raw, name in ((glb_bytes(mesh), "a.glb"), (stl_bytes(mesh), "a.stl")):
        assert np.allclose(read(raw, name).mesh.box, MM, atol=1e-4)
        assert volume(read(raw, name).mesh) == pytest.approx(PART.volume, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_is_no_smaller_part(kind: str) -> None:
    raw = exported(kind)
    for share in (0.1, 0.5, 0.9):
        try:
            found = read(raw[: int(len(raw) * share)], f"a.{kind.split()[0]}")
        except CadmllmError as error:
            assert error.code in ("E422", "E438")
        else:
            assert kind == "obj", found  # which has neither counts nor an end
    if kind not in ("obj", "gltf"):
        refused("E422", raw[: len(raw) // 2], f"a.{kind.split()[0]}")


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damage_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    raw = bytearray(exported(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(raw) - 1, 1200) if data.draw(st.booleans()) else len(raw) - 1))
        noise = data.draw(st.binary(max_size=5))
        raw[place : place + len(noise)] = noise
    try:
        found = read(bytes(raw), f"a.{kind.split()[0]}")
    except CadmllmError as error:
        assert error.code in ("E422", "E438")
    else:
        assert np.isfinite(raw_cloud(found, "a", 0, 64)[0].points).all()


def test_points_of_a_surface_have_the_normals_of_its_triangles() -> None:
    cloud, notes = raw_cloud(read(exported("stl")), "a", 0, 3000)
    assert notes == ()
    assert cloud.transform is not None
    assert cloud.transform.center == pytest.approx((30.0, -20.0, 7.0))
    assert cloud.transform.scale == pytest.approx(0.1)
    points = cloud.transform.invert(cloud.points) - [30.0, -20.0, 7.0]
    radius = np.linalg.norm(points[:, :2], axis=1)
    outer, inner, top = radius > 9.79, radius < 5.001, np.abs(points[:, 2]) > 2.0 - 1e-9
    sideways = np.einsum("ni,ni->n", cloud.normals[:, :2], points[:, :2])
    assert (sideways[outer & ~top] > 0).all()
    assert (sideways[inner & ~top] < 0).all()
    assert (cloud.normals[top, 2] == np.sign(points[top, 2])).all()
    assert top.mean() == pytest.approx(2 * np.pi * 75 / (2 * np.pi * 75 + 2 * np.pi * 15 * 4), abs=0.04)


def test_which_side_is_outside() -> None:
    inverted = PART.copy()
    inverted.invert()
    found = read(inverted.export(file_type="stl"))
    assert volume(found.mesh) > 0.0
    assert "inwards" in found.notes[0]
    mixed = PART.copy()
    mixed.faces[::3] = mixed.faces[::3, ::-1]
    surface = surface_of(np.asarray(mixed.vertices), np.asarray(mixed.faces), "a")
    assert surface.notes == ()
    cloud, notes = raw_cloud(surface, "a", 0, 3000)
    assert "opposite ways" in notes[0]
    true, _ = raw_cloud(read(exported("stl")), "a", 0, 3000)
    wrong = np.einsum("ni,ni->n", cloud.normals, true.normals) < 0.0
    assert wrong.mean() < 0.2  # by visibility: walls of the hole are the hard ones
    assert (np.abs(np.einsum("ni,ni->n", cloud.normals, true.normals)) > 0.999).mean() > 0.9
    half = trimesh.Trimesh(PART.vertices, PART.faces[: len(PART.faces) // 2], process=False)  # open: believed
    assert read(half.export(file_type="stl")).notes == ()


def test_faces_of_many_corners() -> None:
    square = "v 0 0 0\nv 4 0 0\nv 4 4 0\nv 0 4 0\n"
    assert len(read(square + "f 1 2 3 4\n", "a.obj").mesh.faces) == 2
    ell = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 1 0\nv 1 2 0\nv 0 2 0\n"
    for order in ("1 2 3 4 5 6", "4 5 6 1 2 3", "3/1/1 4/1/1 5//1 6/2 1 2", "-6 -5 -4 -3 -2 -1"):
        mesh = read(f"{ell}f {order}\n", "a.obj").mesh
        corners = mesh.vertices[mesh.faces]
        areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2.0
        assert (areas >= 0.0).all()
        assert areas.sum() == pytest.approx(3.0)  # a fan about corner 3 would leave the shape
    mixed = b"ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\nelement face 2\n"
    mixed += b"property list uchar int vertex_indices\nproperty uchar red\nend_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n"
    assert len(read(mixed + b"4 0 1 2 3 255\n3 0 1 4 9\n", "a.ply").mesh.faces) == 3
    row = struct.pack("<15fBiiiiBBiiiB", *[0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1], 4, 0, 1, 2, 3, 255, 3, 0, 1, 4, 9)
    binary = mixed.split(b"0 0 0\n")[0].replace(b"ascii", b"binary_little_endian") + row
    assert len(read(binary, "a.ply").mesh.faces) == 3


def test_other_things_in_an_obj(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", None)  # whatever a file names is not opened
    monkeypatch.setattr("os.open", None)
    text = "mtllib /etc/passwd\n# remark\no one\nv 0 0 0 0.5 0.5 0.5\nv 1 0 0\nvn 0 0 1\nvt 0 0\nv 0 \\\n1 0\ns off\nusemtl x\n"
    assert len(read(text + "f 1/1/1 2/1/1 3/1/1\ng two\nl 1 2\nv 0 0 1\nf -4 -3 -1\n", "a.obj").mesh.faces) == 2


BROKEN: dict[str, tuple[str, bytes | str, str]] = {
    "4 billion triangles": ("E438", bytes(80) + b"\xff" * 4 + bytes(50), "a.stl"),
    "fewer triangles than it says": ("E422", b"x" * 80 + struct.pack("<I", 9) + bytes(400), "a.stl"),
    "no triangles": ("E438", b"x" * 80 + struct.pack("<I", 0), "a.stl"),
    "no area": ("E438", b"x" * 80 + struct.pack("<I", 9) + bytes(450), "a.stl"),
    "not finite": (
        "E438",
        b"x" * 80 + struct.pack("<I", 1) + struct.pack("<12f", *[0] * 8, *[float("nan")] * 4) + b"\0\0",
        "a.stl",
    ),
    "index out of range": ("E438", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "a.obj"),
    "index zero": ("E438", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "a.obj"),
    "index below": ("E438", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -4 1 2\n", "a.obj"),
    "index that is huge": ("E438", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99999999999999999999\n", "a.obj"),
    "no faces": ("E438", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "a.obj"),
    "not an obj": ("E438", "hello\n", "a.obj"),
    "words for numbers": ("E438", "v a b c\nf 1 1 1\n", "a.obj"),
    "beyond all floats": ("E438", "v 0 0 0\nv 1e300 0 0\nv 0 1e300 0\nf 1 2 3\n", "a.obj"),
    "a billion vertices": ("E438", "OFF\n1000000000 1 0\n0 0 0\n", "a.off"),
    "a billion faces": ("E438", "OFF\n3 1000000000 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "a.off"),
    "a face with a billion corners": ("E422", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n1000000000 0 1 2\n", "a.off"),
    "not an off": ("E438", "NOFFEE\n3 1 0\n", "a.off"),
    "four dimensions": ("E438", "4OFF\n3 1 0\n", "a.off"),
    "a billion vertices in a ply": (
        "E438",
        "ply\nformat ascii 1.0\nelement vertex 1000000000\nproperty float x\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n",
        "a.ply",
    ),
    "a billion faces in a ply": (
        "E438",
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nelement face 1000000000\n"
        "property list uchar int vertex_indices\nend_header\n",
        "a.ply",
    ),
    "not glTF": ("E438", "{}", "a.gltf"),
    "nested glTF": ("E438", "[" * 100_000, "a.gltf"),
    "glTF 1": ("E438", b"glTF" + struct.pack("<II", 1, 20) + bytes(8), "a.glb"),
    "not 3MF": ("E438", "hello", "a.3mf"),
    "3MF without a model": ("E438", b"PK\x05\x06" + bytes(18), "a.3mf"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_lie_are_refused(name: str) -> None:
    code, raw, file = BROKEN[name]
    refused(code, raw, file)


def gltf(change: dict[str, Any], **accessor: Any) -> bytes:
    """One triangle in a .gltf, with changes."""
    data = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", **accessor}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36, "uri": "data:application/octet-stream;base64," + base64.b64encode(data).decode()}],
    }
    return json.dumps({**tree, **change}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        gltf({"buffers": [{"byteLength": 36, "uri": "../../etc/passwd"}]}),
        gltf({"buffers": [{"byteLength": 36, "uri": "https://a.b/c.bin"}]}),
        gltf({"buffers": [{"byteLength": 36}]}),
        gltf({}, count=10**9),
        gltf({}, count=-3),
        gltf({}, count=3.0),
        gltf({}, count=True),
        gltf({}, byteOffset=-36),
        gltf({}, byteOffset=2**62),
        gltf({}, componentType=5130),
        gltf({}, type="MAT4"),
        gltf({}, sparse={"count": 1}),
        gltf({"accessors": [{"componentType": 5126, "count": 10**9, "type": "VEC3"}]}),
        gltf({"bufferViews": [{"buffer": 0, "byteLength": 36, "byteStride": 1}]}),
        gltf({"nodes": [{"mesh": 0, "children": [0]}]}),
        gltf({"nodes": [{"children": [1, 1]}, {"mesh": 0}]}),
        gltf({"nodes": [{"mesh": -1}]}),
        gltf({"nodes": [{"mesh": 7}]}),
        gltf({"nodes": [{"mesh": 0, "matrix": [1, 2]}]}),
        gltf({"nodes": [{"mesh": 0, "scale": ["a", "b", "c"]}]}),
        gltf({"nodes": [{"mesh": 0, "scale": [0, 0, 0]}]}),
        gltf({"nodes": 7}),
        gltf({"meshes": [{"primitives": [{"attributes": {}}]}]}),
        gltf({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 1}]}]}),
        gltf({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 0}]}]}),
        gltf({"extensionsUsed": ["KHR_draco_mesh_compression"]}),
        gltf({"asset": {"version": "1.0"}}),
    ],
)
def test_gltf_that_lies_or_reaches_out(raw: bytes) -> None:
    with pytest.raises(CadmllmError) as caught:
        read(raw, "a.gltf")
    assert caught.value.code in ("E422", "E438")


def test_a_scene_of_many_copies_is_counted_before_it_is_made() -> None:
    nodes = [{"mesh": 0}] * 4
    assert len(read(gltf({"nodes": nodes, "scenes": [{"nodes": [0, 1, 2, 3]}]}), "a.gltf").mesh.faces) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cadmllm.corpus.limits.MOST_TRIANGLES", 3)
        assert "4 triangles" in refused("E438", gltf({"nodes": nodes, "scenes": [{"nodes": [0, 1, 2, 3]}]}), "a.gltf")


def test_a_scene_of_several_parts_is_taken_whole() -> None:
    scene = trimesh.Scene()
    for k in range(3):
        place = np.eye(4)
        place[0, 3] = 100.0 * k
        place[1, 1] = -1.0 if k == 1 else 1.0  # a mirrored part stays outside out
        scene.add_geometry(PART, transform=place)
    found = read(scene.export(file_type="glb"), "a.glb").mesh
    assert np.ptp(found.vertices[:, 0]) == pytest.approx(220_000.0)
    assert volume(found) == pytest.approx(3 * PART.volume * 1e9, rel=1e-4)
    turned = {"rotation": [0.0, 0.0, 0.7071067811865476, 0.7071067811865476], "translation": [5, 0, 0], "scale": [2, 2, 2]}
    points = read(gltf({"nodes": [{"mesh": 0, **turned}], "scenes": []}), "a.gltf").mesh.vertices
    assert np.allclose(points[np.argsort(points[:, 0])][0], [3000.0, 0.0, 0.0])  # (0, 1, 0) turned by 90 degrees about z


def test_3mf_parts_units_and_transforms() -> None:
    mesh = object_of(1, PART)
    for unit, size in (("micron", 0.001), ("", 1.0), ("inch", 25.4), ("meter", 1000.0)):
        found = read(threemf(model(mesh + '<build><item objectid="1"/></build>', unit)), "a.3mf")
        assert np.allclose(found.mesh.box, np.array(MM) * size)
        assert found.millimetres == size
    whole = mesh + '<object id="2"><components><component objectid="1"/>'
    whole += '<component objectid="1" transform="-1 0 0 0 1 0 0 0 1 0 0 0"/></components></object>'
    found = read(
        threemf(model(whole + '<build><item objectid="2" transform="1 0 0 0 1 0 0 0 1 0 100 0"/></build>')), "a.3mf"
    ).mesh
    assert np.allclose(found.box, ([-40.0, 70.0, 5.0], [40.0, 90.0, 9.0]))
    assert volume(found) == pytest.approx(2 * PART.volume, rel=1e-6)
    split = '<object id="2"><components><component p:path="/3D/Objects/o.model" objectid="1"/></components></object>'
    text = model(split + '<build><item objectid="2"/></build>').replace("<model", '<model xmlns:p="http://p"')
    assert np.allclose(read(threemf(text, **{"3D/Objects/o.model": model(mesh)}), "a.3mf").mesh.box, MM)
    refused("E438", threemf(text), "a.3mf")


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def test_3mf_that_lies_or_grows() -> None:
    item = '<build><item objectid="1"/></build>'
    for head in (BOMB, OUTSIDE):
        assert "document type" in refused("E438", threemf(model(object_of(1, PART) + item, head=head)), "a.3mf")
    itself = '<object id="1"><components><component objectid="1"/></components></object>'
    assert "hold themselves" in refused("E438", threemf(model(itself + item)), "a.3mf")
    doubled = object_of(0, PART).replace('id="0"', 'id="x0"')
    for k in range(1, 40):
        pair = f'<component objectid="x{k - 1}"/>' * 2
        doubled += f'<object id="x{k}"><components>{pair}</components></object>'
    assert "triangles" in refused("E438", threemf(model(doubled + '<build><item objectid="x39"/></build>')), "a.3mf")
    empty = doubled.replace("<triangle ", "<nothing ")
    assert "no faces" in refused("E438", threemf(model(empty + '<build><item objectid="x39"/></build>')), "a.3mf")
    for broken in (
        "<vertex x='0'/>",
        "<vertex x='a' y='b' z='c'/>",
        "<vertex x='0' y='0' z='0'/><triangle v1='0' v2='1' v3='2'/>",
    ):
        refused("E438", threemf(model(f"<object id='1'><mesh>{broken}</mesh></object>{item}")), "a.3mf")
    for build in ("", '<build><item objectid="7"/></build>', '<build><item objectid="1" transform="1 2"/></build>'):
        refused("E438", threemf(model(object_of(1, PART) + build)), "a.3mf")
    refused("E438", threemf(model(object_of(1, PART) + item, unit="parsec")), "a.3mf")
    refused("E438", threemf("no xml"), "a.3mf")


def test_archives_that_unfold_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    text = model(object_of(1, PART) + '<build><item objectid="1"/></build>')
    monkeypatch.setattr("cadmllm.corpus.threemf.LARGEST_TEXT", 1000)
    assert "unfolds" in refused("E438", threemf(text), "a.3mf")
    monkeypatch.undo()
    monkeypatch.setattr("cadmllm.corpus.arrays.MOST_ENTRIES", 3)
    assert "files" in refused("E438", threemf(text, a="", b=""), "a.3mf")


def test_a_ply_is_a_mesh_by_its_faces() -> None:
    assert is_mesh(exported("ply"), Path("a.ply"))
    assert not is_mesh(trimesh.PointCloud(PART.vertices).export(file_type="ply"), Path("a.ply"))
    assert not is_mesh(b"junk", Path("a.ply"))
    assert is_mesh(b"junk", Path("a.OBJ"))
    assert not is_mesh(b"junk", Path("a.xyz"))


def test_a_face_that_would_take_for_ever_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ell = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 1 0\nv 1 2 0\nv 0 2 0\nf 1 2 3 4 5 6\n"
    monkeypatch.setattr("cadmllm.corpus.polygons.MOST_CORNERS", 5)
    assert "6 corners" in refused("E438", ell, "a.obj")
