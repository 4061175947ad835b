"""What is made of a program: STEP, a cloud, the 8 views. One function does it all, in a process that may be killed.

What a file holds depends on the program, the id and the recipe alone: not on the time, the worker, the engine or its neighbours.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cadmllm.cad.kernel import BuildFailure, Verdict
from cadmllm.corpus import order
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.frame import Transform
    from cadmllm.cad.mesh import Mesh

Product = Literal["points", "step", "views"]
PRODUCTS: tuple[Product, ...] = get_args(Product)
STAGES = ("read", "build", "step", "mesh", "points", "views", "write")
VIEWS = 8
POINT_COUNT = 8192  # twice what an encoder sees, so that each epoch draws another half
COLOURS = 10  # of a compact view
LARGEST_PROGRAM = 64 * 2**20  # bytes
PACKAGES = ("cadquery-ocp-novtk", "cadquery-ocp")  # who the kernel comes from

# Raised when the same program would give other solids, triangles, points or pixels: files of an older one are then made anew.
BUILDER, SAMPLER, RENDERER = 1, 1, 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is made of each program, and how.

    Attributes:
        points: surface points a cloud; 0: no clouds.
        views: whether the 8 views are drawn.
        step: whether STEP files are written.
        size: pixels of a view's side.
        compact: 16-bit points and pictures of a few colours, a fifth of the space: for data sets that are shipped.
        seed: of the points.
    """

    points: int = 0
    views: bool = False
    step: bool = False
    size: int = 224
    compact: bool = False
    seed: int = 0

    @property
    def products(self) -> tuple[Product, ...]:
        """What is wanted."""
        wanted = {"points": self.points > 0, "step": self.step, "views": self.views}
        return tuple(product for product in PRODUCTS if wanted[product])

    def parameters(self, product: Product) -> dict[str, Any]:
        """What decides the bytes of a product, next to the program and the id; `by` names the makers and their versions.

        Raises:
            CadmllmError: E301 when there is no kernel.
        """
        by = f"builder {BUILDER} ocp {kernel_version()}"
        if product == "points":
            return {"count": self.points, "seed": self.seed, "compact": self.compact, "by": f"sampler {SAMPLER} {by}"}
        if product == "views":
            return {"size": self.size, "compact": self.compact, "by": f"renderer {RENDERER} {by}"}
        return {"by": by}


def kernel_version() -> str:
    """The version of the installed kernel, without loading it. Raises `CadmllmError` E301."""
    for name in PACKAGES:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise CadmllmError("E301", "the CAD kernel is not installed", 'pip install "cadquery-ocp-novtk>=8.0,<8.1"')


def targets(id_: str, product: Product) -> list[str]:
    """The files of an id under the output folder: pcd/ID.npz, step/ID.step, or img/ID_000.png .. img/ID_007.png."""
    if product == "views":
        return [f"img/{id_}_{k:03d}.png" for k in range(VIEWS)]
    return [f"pcd/{id_}.npz" if product == "points" else f"step/{id_}.step"]


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was written: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one program.

    Attributes:
        id: whose.
        program: SHA-256 of the program's file, '' when it could not be read or the worker died.
        verdict: OK, or why nothing was made.
        code, reason: of a failure.
        transform: (center x, y, z in mm, scale in 1/mm) that brings the part to [-1, 1].
        files: by product, in the order of `targets`.
        seconds: by stage of `STAGES`, wall time.
    """

    id: str
    program: str
    verdict: Verdict
    code: str = ""
    reason: str = ""
    transform: tuple[float, float, float, float] | None = None
    files: dict[Product, tuple[Made, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for was made."""
        return self.verdict is Verdict.OK


@dataclass(frozen=True, slots=True)
class Piece:
    """One program to derive from; it travels to worker processes and to other machines.

    Attributes:
        id: safe to be made a path of.
        program: its JSON file.
        out: the output folder, whose subfolders are there.
        aside: folder on the same file system for files that are being written; a worker has one file there, `aside_file`.
        products: what to make.
        recipe: how.
    """

    id: str
    program: Path
    out: Path
    aside: Path
    products: tuple[Product, ...]
    recipe: Recipe

    def run(self) -> Outcome:
        """`derive`."""
        return derive(self)


def aside_file(folder: Path, pid: int) -> Path:
    """Where the process `pid` of this machine writes what is not whole yet."""
    return folder / f"{os.uname().nodename}-{pid}"


def derive(piece: Piece) -> Outcome:
    """Read a program, build it, and write what is wanted of it; files appear whole, by rename, after everything was made.

    Raises:
        CadmllmError: E301 (no kernel), E303 (a file cannot be written).
    """
    seconds: dict[str, float] = {}
    program = ""
    try:
        program = digest(piece.program)
        transform, contents = _contents(piece, seconds)
    except BuildFailure as failure:
        return Outcome(piece.id, program, failure.verdict, "E302", failure.reason, seconds=seconds)
    except CadmllmError as error:
        if error.code.startswith("E3"):
            raise
        message = error.message.replace(str(piece.program), f"{piece.id}.json")  # a manifest is the same wherever the data lie
        return Outcome(piece.id, program, Verdict.PARSE, error.code, message, seconds=seconds)
    except Exception as failure:  # the edge of a worker: whatever one program brings to light is its verdict, not the run's end
        stage = next(reversed(seconds), "read")
        return Outcome(
            piece.id, program, Verdict.BUILD, "E302", f"{stage}: {type(failure).__name__}: {failure}"[:300], seconds=seconds
        )
    with _timed(seconds, "write"):
        files = {product: tuple(_write(piece, product, contents[product])) for product in piece.products}
    return Outcome(piece.id, program, Verdict.OK, transform=(*transform.center, transform.scale), files=files, seconds=seconds)


def _contents(piece: Piece, seconds: dict[str, float]) -> tuple[Transform, dict[Product, list[bytes]]]:
    """The transform and the bytes of every product."""
    from cadmllm.cad import kernel, omnicad
    from cadmllm.cad.mesh import normalise

    with _timed(seconds, "read"):
        program = omnicad.read_json(piece.program)
    with _timed(seconds, "build"):
        shape = kernel.build_shape(program)
    contents: dict[Product, list[bytes]] = {}
    if "step" in piece.products:
        with _timed(seconds, "step"):
            contents["step"] = [_step(shape, piece)]
    with _timed(seconds, "mesh"):  # for STEP alone, too: the transform is recorded, and what has no surface is no part
        mesh = kernel.tessellate(shape)
        transform = normalise(mesh)
    if "points" in piece.products:
        with _timed(seconds, "points"):
            contents["points"] = [cloud_bytes(mesh, piece.id, piece.recipe)]
    if "views" in piece.products:
        with _timed(seconds, "views"):
            contents["views"] = view_bytes(mesh, piece.recipe)
    return transform, contents


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Generator[None]:
    began = time.perf_counter()
    seconds[stage] = 0.0
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - began


def digest(path: Path) -> str:
    """SHA-256 of a program's file, in hex.

    Raises:
        CadmllmError: E201 (unreadable), E202 (too large for a program), E420 (a pipe, a device, a folder).
    """
    leave = "leave it out of the data set"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer must not hold us
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise CadmllmError("E420", f"{path} is no regular file", leave)
            if found.st_size > LARGEST_PROGRAM:
                raise CadmllmError("E202", f"{path} is larger than {LARGEST_PROGRAM >> 20} MB", "give one program a file")
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        if error.errno == 6:  # ENXIO: a socket
            raise CadmllmError("E420", f"{path} is no regular file", leave) from error
        raise CadmllmError("E201", f"{path} cannot be read: {error.strerror}", leave) from error


def _step(shape: Any, piece: Piece) -> bytes:
    """A STEP file named after the part."""
    from cadmllm.cad.occt import output

    aside = aside_file(piece.aside, os.getpid())
    try:
        output.write_step(shape, aside, piece.id.rpartition("/")[2])
        return aside.read_bytes()
    except OSError as error:
        raise _unwritable(aside, error) from error
    finally:
        aside.unlink(missing_ok=True)


def cloud_bytes(mesh: Mesh, id_: str, recipe: Recipe) -> bytes:
    """An .npz with points in [-1, 1], unit normals, and the transform from mm: points = (mm - center) * scale."""
    import numpy as np

    from cadmllm.cad.mesh import normalise, sample_surface

    seed = order.whole(recipe.seed, int(order.fraction(id_) * 2**56))
    points, normals = sample_surface(mesh, recipe.points, seed)
    transform = normalise(mesh)
    kind = np.float16 if recipe.compact else np.float32
    buffer = io.BytesIO()
    save = np.savez_compressed if recipe.compact else np.savez  # both date their entries 1980: the same bytes tomorrow
    save(
        buffer,
        points=transform.apply(points).astype(kind),
        normals=normals.astype(kind),
        center=np.array(transform.center),
        scale=np.array(transform.scale),
    )
    return buffer.getvalue()


def view_bytes(mesh: Mesh, recipe: Recipe) -> list[bytes]:
    """The 8 views as PNG."""
    from PIL import Image

    from cadmllm.cad.render import render_views

    out = []
    for pixels in render_views(mesh, recipe.size):
        picture = Image.fromarray(pixels)
        if recipe.compact:
            picture = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=6)  # four times as fast as `optimize`, and 3 % larger
        out.append(buffer.getvalue())
    return out


def _write(piece: Piece, product: Product, contents: list[bytes]) -> Iterator[Made]:
    """Put the files of a product in place, each whole."""
    aside = aside_file(piece.aside, os.getpid())
    for name, content in zip(targets(piece.id, product), contents, strict=True):
        try:
            aside.write_bytes(content)
            os.replace(aside, piece.out / name)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _unwritable(piece.out / name, error) from error
        yield Made(len(content), hashlib.sha256(content).hexdigest())


def _unwritable(path: Path, error: OSError) -> CadmllmError:
    remedy = "free some space or give another --out; the same command goes on from here"
    return CadmllmError("E303", f"cannot write {path}: {error.strerror}", remedy)
