import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from cadmllm.corpus.types import ADDED, CAD_SIZE, IGNORE
from cadmllm.models.loss import supervised_loss
from cadmllm.models.rows import AddedRows

TEXT = 40


@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_equals_the_full_head_masked_to_the_cad_vocabulary(chunk: int):
    """A plain causal LM with resized matrices that hold our rows, every logit outside the CAD vocabulary at -inf."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=TEXT, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    plain = Qwen3ForCausalLM(config)
    rows = AddedRows(TEXT, 32)
    ids = torch.cat([torch.randint(0, TEXT, (2, 4)), torch.randint(TEXT, TEXT + CAD_SIZE, (2, 5))], dim=1)
    labels = torch.where(ids >= TEXT, ids - TEXT, IGNORE)
    labels[1, -2:] = IGNORE
    ours_side = copy.deepcopy(plain)
    hidden = ours_side.model(inputs_embeds=rows.embed(ids, ours_side.get_input_embeddings())).last_hidden_state
    ours, count = supervised_loss(hidden, labels, rows, chunk)
    ours.backward()

    plain.resize_token_embeddings(TEXT + len(ADDED), mean_resizing=False)
    with torch.no_grad():
        plain.get_input_embeddings().weight[TEXT:] = rows.input
        plain.get_output_embeddings().weight[TEXT : TEXT + CAD_SIZE] = rows.output
    logits = plain(input_ids=ids).logits
    masked = torch.full_like(logits, float("-inf"))
    masked[..., TEXT : TEXT + CAD_SIZE] = logits[..., TEXT : TEXT + CAD_SIZE]
    wanted = torch.where(labels == IGNORE, IGNORE, labels + TEXT)[:, 1:]
    full = F.cross_entropy(masked[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="sum")
    full.backward()

    assert count == int((wanted != IGNORE).sum()) == 8
    torch.testing.assert_close(ours, full, rtol=1e-6, atol=1e-5)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
        torch.testing.assert_close(ours_side.get_parameter(name).grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
    grown_in, grown_out = plain.get_input_embeddings().weight.grad, plain.get_output_embeddings().weight.grad
    torch.testing.assert_close(rows.input.grad, grown_in[TEXT:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rows.output.grad, grown_out[TEXT : TEXT + CAD_SIZE], rtol=1e-4, atol=1e-6)


def test_nothing_supervised_is_zero_with_a_gradient():
    rows, hidden = AddedRows(TEXT, 8), torch.randn(1, 3, 8, requires_grad=True)
    total, count = supervised_loss(hidden, torch.full((1, 3), IGNORE), rows)
    total.backward()
    assert (float(total), count) == (0.0, 0)
    assert hidden.grad is not None


def test_the_first_position_is_never_predicted():
    rows, hidden = AddedRows(TEXT, 8), torch.randn(1, 3, 8)
    _, count = supervised_loss(hidden, torch.tensor([[5, IGNORE, 2]]), rows)
    assert count == 1


def test_logits_of_a_chunk_live_at_once(monkeypatch: pytest.MonkeyPatch):
    seen = []
    rows, hidden = AddedRows(TEXT, 8), torch.randn(1, 11, 8, requires_grad=True)
    plain = AddedRows.logits
    monkeypatch.setattr(AddedRows, "logits", lambda self, h: (seen.append(len(h)), plain(self, h))[1])
    supervised_loss(hidden, torch.zeros(1, 11, dtype=torch.int64), rows, chunk=4)[0].backward()
    assert sorted(set(seen)) == [2, 4]
    assert len(seen) == 6
