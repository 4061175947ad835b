"""Under which terms the parts of a model come, as far as that is known. What is not known says so: nothing here is legal advice.

Looked up on 2026-11-23 in the parts' own pages; a page may have changed since.
"""

from __future__ import annotations

from typing import Any

from cadmllm.plan.sizes import KNOWN

UNKNOWN = "unknown: see its model card"
BASES = {"Qwen/Qwen3-": "Apache-2.0 (the model card of Qwen3)"}
DINOV2 = "Apache-2.0 (the model card of facebook/dinov2; its files were CC BY-NC 4.0 until September 2023)"
MICHELANGELO = "code: GPL-3.0 (its repository); weights: LGPL-3.0 (the page of Maikou/Michelangelo on the hub)"
_ONSHAPE = "programs parsed from public Onshape documents, under Onshape's terms and their makers' rights"
DATA = (
    ("it is Omni-CAD", f"unknown: the project states no licence (others report MIT for its page on the hub); {_ONSHAPE}"),
    ("it is DeepCAD", f"code: MIT; data: no licence of its own; {_ONSHAPE}"),
    (
        "it has captions of Text2CAD",
        "CC BY-NC-SA 4.0: no commercial use; what is made of them goes on under the same terms",
    ),
    ("it was made by `cadmllm data synth`, or is the bundled set", "Apache-2.0"),
)


def of_base(name: str) -> str:
    """Of a base model, by its name."""
    if name == "tiny":
        return "Apache-2.0 (it ships with cadmllm)"
    full = next((known for known in KNOWN if known.rpartition("/")[2] == name.rpartition("/")[2]), name)
    return next((terms for prefix, terms in BASES.items() if full.startswith(prefix)), UNKNOWN)


def of_encoders(model: dict[str, Any], stage: int) -> list[tuple[str, str]]:
    """Encoder and terms, for those that a stage uses."""
    found = []
    if stage > 1:
        known = model["points_encoder"] == "michelangelo"
        found.append(("Michelangelo (point clouds)", MICHELANGELO) if known else ("point encoder", "trained here"))
    if stage > 2:
        name = model["image_encoder"]
        own = name == "tiny"
        terms = "trained here" if own else DINOV2 if "dinov2" in name.lower() else UNKNOWN
        found.append(("image encoder" if own else f"{name} (images)", terms))
    return found
