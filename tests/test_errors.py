"""The error type and the table of codes."""

from __future__ import annotations

import pickle
import re

import pytest

from cadmllm.errors import CODES, CadmllmError, Exit


def test_codes_are_well_formed_and_in_order():
    assert all(re.fullmatch(r"E[1-9]\d\d", code) for code in CODES)
    assert list(CODES) == sorted(CODES)
    assert all(meaning and meaning[0] != " " and not meaning.endswith(".") for meaning in CODES.values())


def test_an_unknown_code_is_refused():
    with pytest.raises(KeyError, match="E000"):
        CadmllmError("E000", "x", "y")


def test_it_survives_the_way_from_a_worker_process():
    error = CadmllmError("E105", "a and b", "leave one out", exit_code=Exit.USAGE)
    back = pickle.loads(pickle.dumps(error))
    assert back.as_dict() == {"code": "E105", "message": "a and b", "remedy": "leave one out"}
    assert back.exit_code is Exit.USAGE
    assert str(back) == "E105: a and b"
