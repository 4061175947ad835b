"""The arithmetic that benchmarks/export.py prints for models too large to measure, against exports of small ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from cadmllm.export.merge import PAPERS, needed_bytes
from cadmllm.export.source import open_source
from cadmllm.plan.sizes import shape_from

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "export.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bench_export", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("figure", "kind", "dtype"),
    [
        ("adapter_gb", "adapter", "bf16"),
        ("merged_bf16_gb", "merged", "bf16"),
        ("merged_fp32_gb", "merged", "fp32"),
        ("gguf_q8_0_gb", "gguf", "q8_0"),
    ],
)
def test_what_is_computed_from_a_shape_is_what_an_export_takes(bench, kept, figure: str, kind: str, dtype: str):
    source = open_source(kept.folder, kept.settings)
    computed = bench.arithmetic(shape_from(source.base.config), rank=4, text_size=source.text_size)
    assert round(computed[figure] * 1e9) == needed_bytes(source, kind, dtype) - PAPERS


def test_the_base_as_well(bench, kept):
    source = open_source(kept.folder, kept.settings)
    computed = bench.arithmetic(shape_from(source.base.config), rank=4, text_size=source.text_size)
    held = source.base.tensors
    assert round(computed["base_gb"] * 1e9) == sum(held.tensor(name).numel() * 2 for name in held.names())
