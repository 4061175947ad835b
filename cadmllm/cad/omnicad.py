"""DeepCAD / Omni-CAD JSON: the one place to read and write it from."""

from __future__ import annotations

from cadmllm.cad.omnicad_read import box_of, load, parse, read_json, recorded_box
from cadmllm.cad.omnicad_write import to_json, write_json

__all__ = ["box_of", "load", "parse", "read_json", "recorded_box", "to_json", "write_json"]
