"""What the kernel's answer tells of a file; whole deep checks are in tests/commands/test_check_deep.py."""

from __future__ import annotations

import numpy as np
import pytest

from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.mesh import Mesh
from cadmllm.corpus.deep import Look

NOTHING = np.zeros((0, 3))


@pytest.mark.parametrize(
    ("more", "bound", "said"),
    [(0.5, True, 0), (0.5, False, 1), (-0.5, True, 1), (-0.5, False, 1), (0.0, True, 0), (0.0, False, 0)],
)
def test_an_intersection_may_be_smaller_than_what_is_recorded(more, bound, said):
    mesh = Mesh(NOTHING, NOTHING.astype(np.int32), NOTHING[:, 0].astype(np.int32), NOTHING[:, 0].astype(np.int32))
    result = BuildResult(Verdict.OK, box=((0.0, 0.0, 0.0), (4.0, 3.0, 2.0)), mesh=mesh)
    recorded = [0.0, 0.0, 0.0, 4.0, 3.0 + more, 2.0]
    assert [flaw.code for flaw in Look("x.json", None, recorded, 1.0, bound).judge(result).flaws] == ["E461"] * said
