import pytest
import torch

from cadmllm.corpus.types import ADDED, CAD_SIZE, IGNORE, Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import build_model


def test_the_same_seed_gives_the_same_model(settings):
    one, two = (build_model(settings(), 1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_building_leaves_the_global_generator_alone(settings):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    build_model(settings(), 1)
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("lora", [True, False])
def test_training_lowers_the_loss(settings, make_batch, lora: bool):
    model = build_model(settings(lora=lora), 1)
    batch = make_batch(model.text_size)
    parameters = [p for members in model.parameter_groups().values() for _, p in members]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(12):
        total, count = model.loss(batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    assert count == 10
    assert losses[-1] < 0.5 * losses[0]


def test_padding_and_neighbours_do_not_change_a_samples_loss(settings, make_batch):
    model = build_model(settings(), 1).eval()
    batch = make_batch(model.text_size)
    length = int(batch.attention_mask[1].sum())
    alone = Batch(*(value[1:, :length] for value in (batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels)))
    first = Batch(*(value[:1] for value in (batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels)))
    together = float(model.loss(batch)[0])
    assert together == pytest.approx(float(model.loss(alone)[0]) + float(model.loss(first)[0]), abs=1e-4)


def test_packed_documents_do_not_see_each_other(settings, make_batch):
    model = build_model(settings(), 1).eval()
    model.settle_attention()
    batch = make_batch(model.text_size)
    rows = []
    for b in range(2):
        length = int(batch.attention_mask[b].sum())
        rows.append((batch.input_ids[b, :length], torch.arange(length), batch.labels[b, :length]))
    ids, positions, labels = (torch.cat(parts)[None] for parts in zip(*rows, strict=True))
    lengths = [len(row[0]) for row in rows]
    packed = Batch(ids, torch.ones_like(ids), positions, labels, documents=lengths)
    assert float(model.loss(packed)[0]) == pytest.approx(float(model.loss(batch)[0]), abs=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_cached_steps_equal_one_pass_with_left_padding(settings, lora: bool):
    model = build_model(settings(lora=lora), 1).eval()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 2:
            parameter.data += 0.02 * torch.randn_like(parameter)  # LoRA's B starts at zero
    prompts = [torch.randint(0, model.text_size, (n,)) for n in (4, 7)]
    answer = torch.randint(0, CAD_SIZE, (2, 5)) + model.text_size
    ids = torch.stack([torch.cat([torch.zeros(7 - len(p), dtype=torch.int64), p]) for p in prompts])
    mask = torch.stack([torch.tensor([0] * (7 - len(p)) + [1] * len(p)) for p in prompts])
    batch = Batch(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), None)
    stepped = []
    with torch.no_grad():
        logits, cache = model.step(model.embed(batch), None, mask, batch.position_ids, None)
        positions = batch.position_ids
        for t in range(5):
            stepped.append(logits)
            mask, positions = torch.cat([mask, mask.new_ones(2, 1)], 1), positions[:, -1:] + 1
            logits, cache = model.step(None, answer[:, t : t + 1], mask, positions, cache)
        for b, prompt in enumerate(prompts):
            whole = torch.cat([prompt, answer[b]])[None]
            ones = torch.ones_like(whole)
            embeds = model.embed(Batch(whole, ones, ones.cumsum(1) - 1, None))
            hidden = model.llm(inputs_embeds=embeds, use_cache=False).last_hidden_state
            wanted = model.rows.logits(hidden[0, len(prompt) - 1 : -1])
            torch.testing.assert_close(torch.stack([s[b] for s in stepped]), wanted, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_changes_memory_and_not_gradients(settings, make_batch):
    gradients = []
    for on in (False, True):
        chosen = settings()
        chosen.train.gradient_checkpointing = on
        model = build_model(chosen, 1)
        model.loss(make_batch(model.text_size))[0].backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert all(g is not None for g in grads.values())
        gradients.append(grads)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)
    assert any("lora_B" in name and g.abs().sum() > 0 for name, g in gradients[1].items())


def test_a_modality_that_the_stage_has_not_loaded(settings, make_batch):
    model = build_model(settings(), 1)
    with pytest.raises(CadmllmError) as caught:
        model.loss(make_batch(model.text_size, clouds=1))
    assert caught.value.code == "E701"
    assert "stage2" in caught.value.remedy


def test_placeholders_without_features_name_both_numbers(settings, make_batch):
    model = build_model(settings(), 1)
    batch = make_batch(model.text_size, clouds=1)
    batch.points = batch.normals = None
    with pytest.raises(CadmllmError, match="8 .* 0 features"):
        model.loss(batch)


def test_nothing_supervised(settings, make_batch):
    model = build_model(settings(), 1)
    batch = make_batch(model.text_size)
    assert batch.labels is not None
    batch.labels.fill_(IGNORE)
    total, count = model.loss(batch)
    assert (float(total), count) == (0.0, 0)


def test_describe_counts_what_trains(settings):
    table = {row["component"]: row for row in build_model(settings(), 1).describe()}
    assert table["llm"]["trainable"] == 2 * 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    assert table["rows"]["parameters"] == table["rows"]["trainable"] == 32 * (len(ADDED) + CAD_SIZE)
    assert table["total"]["parameters"] == table["llm"]["parameters"] + table["rows"]["parameters"]
    assert "projectors" not in table
    assert "encoders" not in table


def test_features_stand_where_their_placeholders_are(settings, make_batch):
    model = build_model(settings(), 3)
    batch = make_batch(model.text_size, clouds=2, images=1)
    plain = make_batch(model.text_size, clouds=2, images=1)
    with torch.no_grad():
        embeds = model.embed(batch)
        words = model.rows.embed(batch.input_ids, model.llm.get_input_embeddings())
        assert model.points is not None
        assert model.images is not None
        clouds, images = model.points(batch.points, batch.normals), model.images(batch.pixels)
    torch.testing.assert_close(embeds[0, :16], clouds.flatten(0, 1))
    torch.testing.assert_close(embeds[0, 16:20], images[0])
    assert torch.equal(embeds[0, 20:], words[0, 20:])
    assert torch.equal(embeds[1], words[1])
    assert torch.equal(batch.input_ids, plain.input_ids)


@pytest.mark.parametrize(("clouds", "images"), [(0, 0), (1, 0), (0, 2), (2, 1)])
def test_any_mix_of_modalities_trains(settings, make_batch, clouds: int, images: int):
    model = build_model(settings(), 3)
    model.loss(make_batch(model.text_size, clouds=clouds, images=images))[0].backward()
    for name, parameter in model.named_parameters():
        shown = {"points": clouds > 0, "images": images > 0}.get(name.split(".")[0], True)
        if parameter.requires_grad and "mask_token" not in name:
            assert (parameter.grad is not None) == shown, name
            assert parameter.grad is None or parameter.grad.isfinite().all()


def test_the_answer_depends_on_the_cloud(settings, make_batch):
    model = build_model(settings(), 2)
    batch = make_batch(model.text_size, clouds=1)
    before = float(model.loss(batch)[0])
    assert batch.points is not None
    batch.points = batch.points.flip(-1)
    assert float(model.loss(batch)[0]) != before


def test_encoders_are_loaded_only_by_the_stages_that_use_them(settings, tmp_path):
    missing = {"points_encoder": "michelangelo", "points_checkpoint": tmp_path / "no.pt", "image_encoder": "./no"}
    assert build_model(settings(**missing), 1).points is None
    for stage, model in ((2, missing), (3, {"image_encoder": "./no"})):
        with pytest.raises(CadmllmError) as caught:
            build_model(settings(**model), stage)
        assert caught.value.code == "E502"


def test_a_frozen_encoder_stays_in_evaluation_mode_and_gets_no_gradient(settings, make_batch, tmp_path):
    from cadmllm.models.michelangelo import MichelangeloEncoder

    state = MichelangeloEncoder(8, 64, 128, 1, 1).state_dict()
    torch.save({name: torch.randn_like(value) * 0.1 for name, value in state.items()}, tmp_path / "m.pt")
    chosen = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "m.pt")
    model = build_model(chosen, 2)
    assert model.points is not None
    model.train()
    assert not model.points.encoder.training
    assert model.points.projector.training
    model.loss(make_batch(model.text_size, clouds=1))[0].backward()
    assert all(p.grad is None for p in model.points.encoder.parameters())
    assert model.parameter_groups()["encoders"] == []
    chosen.model.train_encoders = True
    assert len(build_model(chosen, 2).parameter_groups()["encoders"]) == len(state)


def test_features_start_about_as_large_as_words(settings, make_batch):
    model = build_model(settings(), 3)
    batch = make_batch(model.text_size, clouds=2, images=1)
    words = float(model.llm.get_input_embeddings().weight.std())
    with torch.no_grad():
        embeds = model.embed(batch)
    for part in (embeds[0, :16], embeds[0, 16:20]):
        assert 0.3 < float(part.std()) / words < 3.0
