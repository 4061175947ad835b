"""Generation: complete answers, whatever stands beside them in the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cadmllm.cad import grammar
from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, cad_tables
from cadmllm.infer.generate import Answer, generate
from cadmllm.infer.sampler import Sampler

torch.set_num_threads(1)

PROMPTS = (
    "a plate",
    "a flange with six holes on a circle, and a boss in the middle of it",
    "x",
    "a long shaft with three steps",
    "a ring",
)


def samples(captions: tuple[str, ...] = PROMPTS) -> list[Sample]:
    return [Sample(id=f"0000/{i}", combination="text", caption=caption, target=None) for i, caption in enumerate(captions)]


def close(one: Answer, other: Answer) -> bool:
    return (one.tokens, one.finished, one.prompt_tokens) == (other.tokens, other.finished, other.prompt_tokens) and math.isclose(
        one.log_likelihood, other.log_likelihood, rel_tol=1e-5, abs_tol=1e-5
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_answers_like_one_by_one(fake, temperature: float) -> None:
    model = fake()
    together = generate(model, samples(), max_new_tokens=60, temperature=temperature, seed=3)
    alone = [generate(model, [sample], max_new_tokens=60, temperature=temperature, seed=3)[0] for sample in samples()]
    small = generate(model, samples(), max_new_tokens=60, temperature=temperature, seed=3, batch_size=2)
    assert all(close(a, b) for a, b in zip(together, alone, strict=True))
    assert all(close(a, b) for a, b in zip(together, small, strict=True))
    assert len({answer.tokens for answer in together}) == len(PROMPTS)


def test_every_answer_is_complete_and_within_the_limit(fake) -> None:
    for limit in (24, 60):
        for answer in generate(fake(seed=limit), samples(), max_new_tokens=limit, temperature=2.0):
            assert answer.finished
            assert answer.tokens[-1] == END
            assert answer.tokens.count(END) == 1
            assert len(answer.tokens) <= limit
            assert grammar.accepts(list(answer.tokens))


def test_without_the_grammar_the_model_says_what_it_likes(fake) -> None:
    answers = generate(fake(), samples(), max_new_tokens=40, grammar=False)
    assert any(not grammar.accepts(list(answer.tokens)) for answer in answers)
    assert all(answer.finished == (END in answer.tokens) for answer in answers)
    assert all(len(answer.tokens) == 40 for answer in answers if not answer.finished)


def test_the_seed_decides(fake) -> None:
    model = fake(sharpness=0.3)
    first, again, other = (generate(model, samples(), max_new_tokens=40, temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_same_sample_twice_draws_two_answers_that_do_not_depend_on_the_order(fake) -> None:
    model = fake(sharpness=0.3)
    one, two = samples()[0], samples()[1]
    a = generate(model, [one, one, two], max_new_tokens=40, temperature=1.0)
    b = generate(model, [two, one, one], max_new_tokens=40, temperature=1.0)
    assert a[0].tokens != a[1].tokens
    assert [a[0].tokens, a[1].tokens, a[2].tokens] == [b[1].tokens, b[2].tokens, b[0].tokens]


def test_the_likelihood_is_that_of_scoring_the_answer_again(fake) -> None:
    model = fake(sharpness=0.5)
    sample = samples()[1]
    (answer,) = generate(model, [sample], max_new_tokens=40, temperature=1.5)
    from cadmllm.corpus.batch import Collator

    batch = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 4096).prompts([sample])
    constraint = Constraint(cad_tables("cpu"), 1, 40)
    mask, total = batch.attention_mask, 0.0
    ids = batch.input_ids
    with torch.no_grad():
        for token in answer.tokens:
            # no cache: the whole prefix each time
            logits, _ = model.step(model.rows[ids], None, mask, torch.arange(ids.shape[1])[None], None)
            total += float(torch.log_softmax(constraint.mask(logits).double(), -1)[0, token])
            constraint.update(torch.tensor([token]))
            ids = torch.cat([ids, torch.tensor([[token + model.text_size]])], dim=1)
            mask = torch.ones_like(ids)
    assert math.isclose(total, answer.log_likelihood, rel_tol=1e-5)
    assert answer.prompt_tokens == batch.input_ids.shape[1]


def test_stops_when_all_are_done(fake) -> None:
    model = fake(sharpness=0.01, ending=1e4)
    answers = generate(model, samples(), max_new_tokens=3000, temperature=1.0)
    assert model.steps == max(len(answer.tokens) for answer in answers) < 3000


def test_the_model_keeps_its_mode_and_its_gradients_work(fake) -> None:
    model = fake().train()
    generate(model, samples()[:1], max_new_tokens=24)
    assert model.training
    assert model.rows.requires_grad
    model.eval()
    generate(model, samples()[:1], max_new_tokens=24)
    assert not model.training


def test_nothing_asked_nothing_answered(fake) -> None:
    assert generate(fake(), [], max_new_tokens=24, temperature=1.0) == []


def test_scores_that_are_not_finite_are_said(fake) -> None:
    model = fake()
    with torch.no_grad():
        model.head.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(CadmllmError) as caught:
            generate(model, samples()[:2], max_new_tokens=24, temperature=temperature)
        assert caught.value.code == "E704"


def test_draws_follow_the_softmax_and_the_nucleus() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.15, 0.05]]))
    draws = torch.linspace(0, 1 - 1e-9, 4000, dtype=torch.float64).unsqueeze(1)
    full = Sampler([1.0] * 4000, 1.0, draws).choose(logits.expand(4000, -1), 0)
    assert np.allclose(torch.bincount(full, minlength=5) / 4000, [0.5, 0.0, 0.3, 0.15, 0.05], atol=1e-3)
    nucleus = Sampler([1.0] * 4000, 0.75, draws).choose(logits.expand(4000, -1), 0)
    assert np.allclose(torch.bincount(nucleus, minlength=5) / 4000, [0.625, 0.0, 0.375, 0.0, 0.0], atol=1e-3)
    one = Sampler([1.0] * 4000, 1e-6, draws).choose(logits.expand(4000, -1), 0)
    assert (one == 0).all()
    cold = Sampler([0.5] * 4000, 1.0, draws).choose(logits.expand(4000, -1), 0)
    squares = np.array([0.25, 0.0, 0.09, 0.0225, 0.0025])
    assert np.allclose(torch.bincount(cold, minlength=5) / 4000, squares / squares.sum(), atol=1e-3)


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = torch.full((2, 6), float("-inf"))
    logits[:, 4] = -1e4
    draws = torch.tensor([[0.0], [1.0 - 2**-53]], dtype=torch.float64)
    assert Sampler([1.0, 1.0], 1.0, draws).choose(logits, 0).tolist() == [4, 4]
