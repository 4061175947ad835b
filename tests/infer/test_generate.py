"""Generation: complete answers, whatever stands beside them in the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cadmllm.cad import grammar
from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, cad_tables
from cadmllm.infer.generate import Answer, filled_up, generate, prompt_length
from cadmllm.infer.sampler import Sampler, keys_of, uniforms
from cadmllm.models.backbone import input_embedding

if TYPE_CHECKING:
    from cadmllm.models.fusion import CadMLLM

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


def test_copies_are_drawn_differently_and_the_first_is_the_answer_alone(fake) -> None:
    model = fake(sharpness=0.3)
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.0, "seed": 5}
    alone = generate(model, samples(), **options)
    model.prompts = 0
    copied = generate(model, samples(), copies=4, batch_size=20, **options)
    assert model.prompts == len(PROMPTS)  # each is read once
    assert all(close(a, b) for a, b in zip(alone, copied[::4], strict=True))
    assert len({answer.tokens for answer in copied}) == 4 * len(PROMPTS)
    for size in (1, 3, 4, 7, 64):
        model.prompts = 0
        again = generate(model, samples(), copies=4, batch_size=size, **options)
        assert all(close(a, b) for a, b in zip(copied, again, strict=True))
        assert model.prompts == len(PROMPTS)


def test_each_copy_has_a_temperature_of_its_own(fake) -> None:
    model = fake(sharpness=0.3)
    greedy = generate(model, samples(), max_new_tokens=40)
    warm = generate(model, samples(), max_new_tokens=40, temperature=[1.0, 1.0, 1.0], copies=3)
    mixed = generate(model, samples(), max_new_tokens=40, temperature=[0.0, 1.0, 1.0], copies=3)
    assert all(close(a, b) for a, b in zip(greedy, mixed[::3], strict=True))
    for copy in (1, 2):
        assert all(close(a, b) for a, b in zip(warm[copy::3], mixed[copy::3], strict=True))


def test_never_more_rows_than_asked_for_and_none_that_is_done(fake) -> None:
    model = fake(sharpness=0.3)
    model.room = 3
    answers = generate(model, samples(), max_new_tokens=60, temperature=1.0, copies=5, batch_size=3)
    # the first token comes from reading the prompt, each further one from reading the one before
    assert model.rows_read == len(PROMPTS) + sum(len(answer.tokens) - 1 for answer in answers)


def test_out_of_memory_writes_fewer_side_by_side_and_says_so(fake) -> None:
    model, said = fake(sharpness=0.3), []
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.0, "copies": 3}
    wanted = generate(model, samples(), **options)
    model.room = 2
    found = generate(model, samples(), note=said.append, **options)
    assert all(close(a, b) for a, b in zip(wanted, found, strict=True))
    assert said == [f"out of memory for {2 * n} answers side by side: {n}" for n in (8, 4, 2)]
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, samples(), **options)
    model.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, samples(), note=said.append, **options)


def test_answers_are_shown_as_they_grow(fake) -> None:
    seen: dict[int, list[list[int]]] = {}
    answers = generate(
        *(fake(sharpness=0.3), samples()),
        max_new_tokens=40,
        temperature=1.0,
        copies=2,
        batch_size=4,
        watch=lambda row, tokens: seen.setdefault(row, []).append(list(tokens)),
    )
    assert sorted(seen) == list(range(10))
    for row, answer in enumerate(answers):
        assert seen[row] == [list(answer.tokens[: n + 1]) for n in range(len(answer.tokens))]


def test_a_longer_budget_draws_the_same_numbers() -> None:
    keys = keys_of(["a", "b", "a"], 7, 2)
    assert len(set(keys)) == 6
    assert keys[::2] == keys_of(["a", "b", "a"], 7, 1)
    short, long = uniforms(keys, 30), uniforms(keys, 4000)
    assert torch.equal(short, long[:, :30])
    assert len({float(row[0]) for row in long}) == 6
    assert abs(float(long.mean()) - 0.5) < 0.01


@pytest.mark.parametrize(("positions", "code", "said"), [(130, "E102", "--max-new-tokens "), (100, "E408", "shorten the text")])
def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_written(fake, positions: int, code: str, said: str) -> None:
    model = fake()
    model.positions = positions
    long = samples(("x", "a flange with six holes on a circle"))
    assert [prompt_length(model, sample) for sample in long] == [51, 85]
    with pytest.raises(CadmllmError) as caught:
        generate(model, long, max_new_tokens=positions - prompt_length(model, long[0]))
    assert caught.value.code == code
    assert "0000/1" in caught.value.message
    assert f"{positions:,} positions" in caught.value.message
    assert said in caught.value.remedy
    assert model.steps == 0
    if code == "E102":  # what it advises is enough
        generate(model, long, max_new_tokens=int(caught.value.remedy.split()[1].rstrip(",")))


def test_the_gaps_are_filled_from_behind() -> None:
    assert filled_up([True, True]) == [0, 1]
    assert filled_up([False, True, False, True, True]) == [3, 1, 4]
    assert filled_up([True, False, False]) == [0]
    for number in range(64):
        stays = [bool(number >> k & 1) for k in range(6)]
        rows = filled_up(stays)
        assert sorted(rows) == [k for k in range(6) if stays[k]]
        assert all(row == place or row >= len(rows) for place, row in enumerate(rows))


def test_a_real_decoder_answers_the_same_alone_in_a_batch_and_without_a_cache(tiny_qwen3) -> None:
    """Prompts of different lengths, answers that end at different times, against each by itself without any cache."""
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": [0.0, 1.0], "copies": 2, "seed": 1}
    together = generate(tiny_qwen3, samples(), batch_size=10, **options)
    alone = [answer for sample in samples() for answer in generate(tiny_qwen3, [sample], batch_size=1, **options)]
    uncached = generate(Uncached(tiny_qwen3), samples(), batch_size=1, **options)  # ty: ignore[invalid-argument-type]
    for answer, other, plain in zip(together, alone, uncached, strict=True):
        assert close(answer, other)
        assert close(answer, plain)
    assert len({len(answer.tokens) for answer in together}) > 2


class Uncached:
    """The model with everything read again at each step; its 'cache' is what was read."""

    def __init__(self, model: CadMLLM) -> None:
        self.model = model
        self.embeds = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def step(self, embeds: Any, ids: Any, mask: torch.Tensor, positions: torch.Tensor, cache: Uncached | None) -> Any:
        new = self.model.rows.embed(ids, input_embedding(self.model.llm)) if embeds is None else embeds
        read = Uncached(self.model)
        read.embeds = new if cache is None else torch.cat([cache.embeds, new], dim=1)
        out = self.model.llm(
            inputs_embeds=read.embeds, position_ids=(mask.cumsum(1) - 1).clamp(min=0), attention_mask=mask, use_cache=False
        )
        return self.model.rows.logits(out.last_hidden_state[:, -1]), read

    def taken(self, rows: list[int], first: int) -> tuple[Uncached, int]:
        other = Uncached(self.model)
        other.embeds = self.embeds[rows, first:]
        return other, first

    def keep(self, rows: list[int], first: int) -> int:
        self.embeds = self.embeds[rows, first:]
        return first
