import torch
from torch import nn

from cadmllm.cad.vocabulary import GRID, NUMBER_BASE
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.models.rows import AddedRows, initial_rows


def test_ids_are_looked_up_on_their_side_of_the_border():
    base, rows = nn.Embedding(10, 8), AddedRows(7, 8)
    ids = torch.tensor([[0, 6, 7, 7 + CAD_SIZE, 6 + len(ADDED)]])
    got = rows.embed(ids, base)
    assert torch.equal(got[0, :2], base.weight[[0, 6]])
    assert torch.equal(got[0, 2:], rows.input[[0, CAD_SIZE, len(ADDED) - 1]])


def test_gradients_reach_only_the_rows_looked_up():
    base, rows = nn.Embedding(10, 8), AddedRows(7, 8)
    rows.embed(torch.tensor([3, 9]), base).sum().backward()
    assert base.weight.grad is not None
    assert rows.input.grad is not None
    assert base.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3]
    assert rows.input.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [2]


def test_base_in_another_type_decides_the_type_of_embeddings_and_logits_stay_float32():
    base, rows = nn.Embedding(10, 8, dtype=torch.bfloat16), AddedRows(7, 8)
    assert rows.embed(torch.tensor([1, 8]), base).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = rows.logits(torch.randn(2, 8, dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert logits.shape == (2, CAD_SIZE)


def test_numbers_start_ordered_and_scaled():
    rows = initial_rows(256, 0.02, seed=1)
    assert torch.allclose(rows.std(dim=1), torch.full((len(ADDED),), 0.02), atol=1e-6)
    numbers = nn.functional.normalize(rows[NUMBER_BASE + GRID.zero - 300 : NUMBER_BASE + GRID.zero + 300], dim=1)
    likeness = [float((numbers[:-gap] * numbers[gap:]).sum(dim=1).mean()) for gap in (1, 4, 16, 64)]
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] > 0.9
    assert likeness[-1] < 0.75
    assert float((numbers[:-1] - numbers[1:]).norm(dim=1).min()) > 0.05  # alike, not equal
    assert torch.equal(rows, initial_rows(256, 0.02, seed=1))
    assert not torch.equal(rows, initial_rows(256, 0.02, seed=2))
