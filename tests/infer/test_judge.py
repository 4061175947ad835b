"""What the kernel says of answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cadmllm.cad.frame import Transform
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import from_text, to_text
from cadmllm.cad.vocabulary import END
from cadmllm.cad.workshop import Workshop
from cadmllm.corpus.types import CAD_SIZE
from cadmllm.infer.constrain import Constraint, cad_tables
from cadmllm.infer.generate import Answer
from cadmllm.infer.judge import Judged, judge, program_of, shares

torch.set_num_threads(1)

BOX = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"  # 40 x 20 x 10 mm
HOLLOW = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nhole_circle 0 0 128\nnew_up 256\nend\n"
NOTHING = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"  # a line there and back


def answer_of(text: str) -> Answer:
    return Answer(tuple(from_text(text)), True, -1.0, 5)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(1, 20.0) as open_one:
        yield open_one


def test_solids_in_order_and_reasons_for_the_rest(workshop: Workshop) -> None:
    whole = answer_of(BOX)
    unfinished = Answer(whole.tokens[:-1], False, -1.0, 5)
    nonsense = Answer((*whole.tokens[2:-1], whole.tokens[-1]), True, -1.0, 5)
    found = judge([unfinished, whole, nonsense, answer_of(HOLLOW), answer_of(NOTHING)], workshop)
    assert [program is not None for program, _ in found] == [False, True, False, True, True]
    results = [result for _, result in found]
    assert [result.verdict is Verdict.OK for result in results] == [False, True, False, True, False]
    assert results[0].verdict is results[2].verdict is Verdict.PARSE
    assert results[4].verdict in (Verdict.INVALID, Verdict.EMPTY, Verdict.BUILD)
    assert all(result.reason for result in results if result.verdict is not Verdict.OK)
    assert results[1].volume == pytest.approx(8000.0, rel=1e-6)
    assert results[3].volume == pytest.approx(8000.0 - np.pi * 25.0 * 10.0, rel=1e-6)
    assert all(result.mesh is None for result in results)
    assert judge([whole], workshop, mesh=True)[0][1].mesh is not None
    assert judge([], workshop) == []


def test_a_transform_puts_the_part_where_the_input_was(workshop: Workshop) -> None:
    ((_, result),) = judge([answer_of(BOX)], workshop, [Transform((100.0, 200.0, 300.0), 2.0 / 80.0)])
    assert result.box is not None
    assert np.allclose(result.box, [(60.0, 180.0, 290.0), (140.0, 220.0, 310.0)], atol=1e-6)


def test_an_answer_is_a_program_or_a_verdict() -> None:
    assert isinstance(program_of(answer_of(BOX)), Program)
    verdict = program_of(Answer((), False, 0.0, 3))
    assert isinstance(verdict, BuildResult)
    assert verdict.verdict is Verdict.PARSE


def test_whatever_the_grammar_allows_is_a_program_or_a_verdict() -> None:
    cad, generator = cad_tables("cpu"), torch.Generator().manual_seed(5)
    for budget in (24, 60, 120):
        constraint, written = Constraint(cad, 64, budget), []
        while not bool(constraint.done.all()):
            scores = constraint.mask(torch.randn(64, CAD_SIZE, generator=generator) * 3.0)
            written.append(torch.where(constraint.done, END, scores.argmax(dim=-1)))
            constraint.update(written[-1])
        for row in torch.stack(written, dim=1).tolist():
            tokens = row[: row.index(END) + 1]
            assert from_text(to_text(tokens)) == tokens
            assert isinstance(program_of(Answer(tuple(tokens), True, 0.0, 0)), Program | BuildResult)


def test_shares_by_combination() -> None:
    def judged(combination: str, verdict: Verdict) -> Judged:
        return Judged("0000/1", combination, "x", answer_of(BOX), BuildResult(verdict))

    rows = shares([judged("text", Verdict.OK), judged("text", Verdict.EMPTY), judged("text+image", Verdict.OK)])
    assert rows == {
        "all": {"count": 3, "valid": pytest.approx(2 / 3), "OK": 2, "EMPTY": 1},
        "text": {"count": 2, "valid": 0.5, "OK": 1, "EMPTY": 1},
        "text+image": {"count": 1, "valid": 1.0, "OK": 1},
    }
    assert shares([]) == {}
