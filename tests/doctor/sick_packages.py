"""Broken environments: packages that raise, crash, hang, are missing, hidden, too old or of another build."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from scene import Case, Scene

from cadmllm.doctor import compiler, imports, packages
from cadmllm.doctor.installed import Distribution, Inventory, scan

Spoil = Callable[[Scene], None]
HAVE = scan(tuple(sys.path))


def raising(module: str, error: str, *, only: dict[str, str] | None = None) -> Spoil:
    """A module that raises when it is imported; `only` are the packages that are tried, to be quick."""

    def spoil(scene: Scene) -> None:
        scene.stub(module, f"raise {error}")
        if only is not None:
            try_only(scene, only)

    return spoil


def try_only(scene: Scene, chain: dict[str, str]) -> None:
    for name, value in (("HEAVY", {}), ("SHELL", {}), ("LIGHT", chain)):
        scene.monkeypatch.setattr(packages, name, value)


def metadata(scene: Scene, name: str, version: str, *needs: str, whole: bool = True) -> Path:
    """A distribution on the stubs' path, before the installed one."""
    folder = scene.folder / "stubs" / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    if whole:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
        (folder / "METADATA").write_text("\n".join([*lines, "", "text"]), encoding="utf-8")
    scene.fresh = True
    return folder


def installed(name: str, version: str, *needs: str) -> Spoil:
    return lambda scene: (metadata(scene, name, version, *needs), None)[1]


def gone(*names: str) -> Spoil:
    """Distributions that are not installed."""

    def spoil(scene: Scene) -> None:
        true = Inventory.get

        def get(self: Inventory, name: str) -> Distribution | None:
            return None if name in names else true(self, name)

        scene.monkeypatch.setattr(Inventory, "get", get)
        scene.fresh = True

    return spoil


def nf4(then: Spoil) -> Spoil:
    def spoil(scene: Scene) -> None:
        scene.values["model.quantization"] = "nf4"
        then(scene)

    return spoil


def hanging(scene: Scene) -> None:
    scene.stub("numpy", "import time\ntime.sleep(100)")
    scene.monkeypatch.setattr(imports, "LIMIT", 1.5)
    try_only(scene, {"numpy": "numpy"})


def crashing(scene: Scene) -> None:
    scene.stub("h5py", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    try_only(scene, {"numpy": "numpy", "h5py": "h5py"})


def local_torch(scene: Scene) -> None:
    (scene.folder / "torch.py").write_text("x = 1\n", encoding="utf-8")
    scene.fresh = True
    try_only(scene, {"torch": "torch"})


def local_random(scene: Scene) -> None:
    (scene.folder / "statistics.py").write_text("mean = None\n", encoding="utf-8")
    scene.fresh = True
    try_only(scene, {"numpy": "numpy"})


def path_module(scene: Scene) -> None:
    """A module of the standard library on PYTHONPATH, which is asked first."""
    scene.stub("queue", "from collections import deque as Queue")
    try_only(scene, {"rich": "rich"})


def twice(scene: Scene) -> None:
    metadata(scene, "peft", "0.18.0")
    metadata(scene, "peft", HAVE.version("peft"))


def clash(name: str, version: str, needing: str, *needs: str) -> Spoil:
    """`needing`, in the version that is here, wants something that is there in another version."""

    def spoil(scene: Scene) -> None:
        metadata(scene, needing, HAVE.version(needing), *needs)
        if name:
            metadata(scene, name, version)

    return spoil


def other_torchvision(scene: Scene) -> None:
    """As transformers meets it: the module is there, and fails."""
    scene.stub("torchvision/__init__", "raise RuntimeError('operator torchvision::nms does not exist')")
    metadata(scene, "torchvision", "0.28.0+cpu")


def old_torchao(scene: Scene) -> None:
    scene.values["lora.enabled"] = True
    metadata(scene, "torchao", "0.10.0")


def other_cuda(scene: Scene) -> None:
    """torch for CUDA 99, and a bitsandbytes with libraries for older ones."""
    metadata(scene, "torch", "2.13.0")
    folder = scene.folder / "stubs" / "torch"
    folder.mkdir()
    (folder / "version.py").write_text("cuda: Optional[str] = '99.1'\n", encoding="utf-8")


def no_compiler(scene: Scene) -> None:
    scene.values["train.compile"] = True
    scene.environ["PATH"] = str(scene.folder)
    scene.environ["CC"] = scene.environ["CXX"] = ""


def no_headers(scene: Scene) -> None:
    scene.values.update({"train.compile": True, "device": "auto"})
    include = {**compiler.sysconfig.get_paths(), "include": str(scene.folder)}
    scene.monkeypatch.setattr(compiler.sysconfig, "get_paths", lambda: include)


NUMPY = {"numpy": "numpy"}
GL = "ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
CORE = "SystemError('The installed pydantic-core version (2.1.0) is incompatible with the current pydantic version')"
SYMBOL = "ImportError('x.so: undefined symbol: _ZN3c104cuda9SetDeviceEi')"
VERSIONS, PAIRS, IMPORTS = ("versions",), ("pairs",), ("packages",)

CASES: tuple[Case, ...] = (
    Case("torch-raises-on-import", "E802", raising("torch", "OSError('libcudart.so.13: cannot open')"), IMPORTS),
    Case("transformers-raises-on-import", "E802", raising("transformers", "RuntimeError('half updated')"), IMPORTS),
    Case("numpy-raises-on-import", "E802", raising("numpy", "ImportError('multiarray')", only=NUMPY), IMPORTS, sample=True),
    Case("import-hangs", "E802", hanging, IMPORTS),
    Case("import-crashes", "E802", crashing, IMPORTS, sample=True),
    Case("import-ends-the-process", "E802", raising("rich", "SystemExit(0)", only={"rich": "rich"}), IMPORTS),
    Case("libGL-is-missing", "E804", raising("OCP", GL, only={"cadquery-ocp-novtk": "OCP"}), IMPORTS, sample=True),
    Case("file-torch-in-working-folder", "E802", local_torch, IMPORTS),
    Case("file-of-the-standard-library-in-working-folder", "E802", local_random, IMPORTS, level="warn"),
    Case("module-of-the-standard-library-on-path", "E802", path_module, IMPORTS),
    Case("package-is-missing", "E802", gone("trimesh"), VERSIONS, sample=True),
    Case("package-is-half-installed", "E802", lambda s: (metadata(s, "wandb", "0.31.0", whole=False), None)[1], VERSIONS),
    Case("package-has-metadata-twice", "E802", twice, VERSIONS),
    Case("package-of-the-user-hides-ours", "E802", installed("trimesh", "5.1.9"), VERSIONS, level="warn"),
    Case("numpy-1-with-our-code", "E803", installed("numpy", "1.26.4"), VERSIONS),
    Case("transformers-4", "E803", installed("transformers", "4.57.1"), VERSIONS),
    Case("kernel-7", "E803", installed("cadquery-ocp-novtk", "7.9.3.1"), VERSIONS),
    Case("bitsandbytes-is-missing-under-nf4", "E806", nf4(gone("bitsandbytes")), VERSIONS, sample=True),
    Case("bitsandbytes-is-too-old-under-nf4", "E803", nf4(installed("bitsandbytes", "0.43.3")), VERSIONS),
    Case("bitsandbytes-is-broken-under-nf4", "E806", nf4(raising("bitsandbytes", "OSError('damaged')")), IMPORTS),
    Case("bitsandbytes-lacks-this-cuda", "E805", nf4(other_cuda), PAIRS),
    Case("bitsandbytes-of-another-torch", "E805", nf4(raising("bitsandbytes", SYMBOL)), IMPORTS),
    Case("flash-attention-is-missing", "E806", lambda s: s.values.update({"model.attention": "flash_attention_2"}), VERSIONS),
    Case("torchvision-of-an-older-torch", "E805", installed("torchvision", "0.21.0+cu124"), PAIRS, sample=True),
    Case("torchvision-for-cuda-beside-torch-for-cpu", "E805", installed("torchvision", "0.28.0"), PAIRS),
    Case("torchvision-breaks-transformers", "E805", other_torchvision, IMPORTS),
    Case("torchao-too-old-for-peft", "E805", old_torchao, PAIRS),
    Case("pynvml-twice", "E805", installed("pynvml", "11.5.0"), PAIRS, level="warn"),
    Case("kernel-with-and-without-vtk", "E805", installed("cadquery-ocp", "7.8.1.1"), PAIRS),
    Case("tokenizers-too-old-for-transformers", "E805", installed("tokenizers", "0.22.0"), PAIRS, level="warn"),
    Case("protobuf-too-new-for-wandb", "E805", installed("protobuf", "9.0"), PAIRS, level="warn"),
    Case("pydantic-core-of-another-release", "E805", installed("pydantic-core", "2.1.0"), PAIRS, level="warn"),
    Case("pydantic-core-refuses", "E805", raising("pydantic", CORE, only={"pydantic": "pydantic"}), IMPORTS),
    Case("dependency-of-a-dependency-is-missing", "E805", gone("regex"), PAIRS, level="warn"),
    Case("torchaudio-of-another-torch", "E805", installed("torchaudio", "2.6.0", "torch==2.6.0"), PAIRS, level="warn"),
    Case("no-compiler-for-compile", "E804", no_compiler, ("compiler",)),
    Case("no-headers-for-compile", "E804", no_headers, ("compiler",)),
)
