"""GPUs, drivers and builds of torch that are not well; none of them is in this machine."""

from __future__ import annotations

from collections.abc import Callable

from fake_gpu import CU126, card, nvml, torch, wsl_card
from scene import Case, Scene

from cadmllm.doctor import cards

GIB = 2**30
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"
NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
# the attention of every process that a check starts is off by a tenth, once its module is loaded
SPOILED = """
import importlib.abc, importlib.machinery, sys
class Spoiler(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "cadmllm.models.attention":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def spoiled(module):
            load(module)
            right = module.by_document
            module.by_document = lambda *given, **more: (1.1 * right(*given, **more)[0], None)
        spec.loader.exec_module = spoiled
        return spec
sys.meta_path.insert(0, Spoiler())
"""


def machine(
    *seen: dict | None,
    build: str = "",
    device: str = "cuda",
    dtype: str = "bfloat16",
    wsl: bool = False,
    environ: dict[str, str] | None = None,
    large: bool = False,
    **system: object,
) -> Callable[[Scene], None]:
    """A machine with these cards, this torch, and a run that is to compute on `device`.

    Args:
        seen: as `fake_gpu.card` makes them; system: how NVML itself is.
        build: source of a torch; the good one when empty.
        large: the run takes 12 GiB by the plan.
    """

    def spoil(scene: Scene) -> None:
        scene.stub("pynvml", nvml(*seen, **system))
        scene.stub("torch", build or torch())
        scene.values |= {"device": device, "dtype": dtype}
        scene.environ |= environ or {}
        if wsl:
            scene.system("proc/version", "Linux version 6.6.87.2-microsoft-standard-WSL2")
            scene.system("dev/dxg", "")
        if large:
            scene.values |= {"model.llm": "Qwen/Qwen3-8B", "model.quantization": "nf4", "model.embedding_device": "cpu"}
            scene.values |= {"lora.enabled": True, "lora.r": 32, "train.gradient_checkpointing": True}
            scene.values |= {"train.max_seq_length": 8192, "train.batch_size": 1}

    return spoil


def hanging(scene: Scene) -> None:
    machine(card(), hangs=True)(scene)
    scene.monkeypatch.setattr(cards, "SECONDS", 0.5)


def card_without_a_driver(scene: Scene) -> None:
    machine(kind="LibraryNotFound", error="NVML Shared Library Not Found", device="auto")(scene)
    scene.system("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    scene.system("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")


def wrong_numbers(scene: Scene) -> None:
    scene.stub("sitecustomize", SPOILED)


def held(**more: object) -> dict:
    return card(free=9 * GIB, compute=[[4711, "/usr/bin/blender", 6 * GIB]], **more)


GPU, TORCH, LOAD = ("gpu",), ("torch",), ("gpu-load",)
T4 = card(name="Tesla T4", capability=[7, 5])
CASES: tuple[Case, ...] = (
    Case("no-gpu-driver", "E811", machine(kind="LibraryNotFound", error="NVML Shared Library Not Found"), GPU, sample=True),
    Case("a-card-without-a-driver", "E811", card_without_a_driver, GPU, level="warn"),
    Case(
        "gpu-driver-updated-while-loaded",
        "E811",
        machine(kind="LibRmVersionMismatch", error="Driver/library version mismatch"),
        GPU,
    ),
    Case("nvml-hangs", "E811", hanging, GPU),
    Case("nvml-crashes", "E811", machine(card(), crashes=True), GPU),
    Case("no-cards", "E811", machine(), GPU),
    Case("cuda-3-of-one", "E811", machine(card(), device="cuda:3"), GPU),
    Case("gpu-hidden", "E811", machine(card(), environ={"CUDA_VISIBLE_DEVICES": ""}), GPU),
    Case("gpu-hidden-by-a-wrong-uuid", "E811", machine(card(), environ={"CUDA_VISIBLE_DEVICES": "GPU-ffff"}), GPU),
    Case("a-lost-card", "E811", machine(card(), None), GPU, level="warn"),
    Case("bfloat16-on-a-t4", "E613", machine(T4), GPU),
    Case("cpu-torch-beside-a-gpu", "E812", machine(card(), build=torch("2.13.0+cpu", None)), TORCH, sample=True),
    Case("no-kernels-for-blackwell", "E812", machine(card(), build=torch("2.8.0+cu126", "12.6", CU126)), TORCH, sample=True),
    Case("no-kernel-image", "E812", machine(card(), build=torch(launch=NO_IMAGE)), TORCH),
    Case("an-old-driver", "E851", machine(card(), build=torch(init=TOO_OLD), driver="550.54", cuda=12040), TORCH),
    Case("cuda-does-not-start", "E811", machine(card(), build=torch(init="CUDA unknown error")), TORCH),
    Case("a-card-that-computes-wrong", "E853", machine(card(), build=torch(product=200.0)), TORCH),
    Case(
        "another-card-than-nvidia-smi-says",
        "E811",
        machine(card(name="NVIDIA RTX A4000", uuid="GPU-a4000", capability=[8, 6]), card()),
        TORCH,
        level="warn",
    ),
    Case("vram-held-by-another", "E852", machine(held(), large=True), LOAD, level="warn"),
    Case("vram-held-under-wsl", "E852", machine(wsl_card(free=9 * GIB), wsl=True, large=True), LOAD, level="warn"),
    Case("wsl-spill", "E856", machine(wsl_card(free=9 * GIB), wsl=True, large=True), LOAD, level="warn", sample=True),
    Case("a-hot-card", "E854", machine(card(temperature=92)), LOAD, level="warn"),
    Case("a-throttled-card", "E854", machine(card(throttle=0x40)), LOAD, level="warn"),
    Case("a-card-short-of-power", "E854", machine(card(limit=120_000)), LOAD, level="warn"),
    Case("one-pcie-lane", "E855", machine(card(width=1)), LOAD, level="warn"),
    Case("slow-pcie-under-load", "E855", machine(card(generation=1, utilisation=97)), LOAD, level="warn"),
    Case("attention-that-is-wrong", "E853", wrong_numbers, ("numbers",)),
)
