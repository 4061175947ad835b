"""CAD-MLLM: a language model whose prompt holds projected features, and whose answers are CAD vocabulary items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from cadmllm.corpus.types import ADDED, IMAGE, POINTS, Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.attention import Attention, settle
from cadmllm.models.backbone import Backbone, input_embedding, load_backbone, pick_device
from cadmllm.models.branches import IMAGES_STAGE, POINTS_STAGE, Branch, images_branch, points_branch
from cadmllm.models.lastlayer import asked_of, spare_last_layer
from cadmllm.models.layers import checkpoint_layers
from cadmllm.models.loss import CHUNK, summed_loss, supervised_loss
from cadmllm.models.rows import AddedRows
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast


class CadMLLM(nn.Module):
    """The whole model.

    Attributes:
        llm: the decoder, with LoRA around its linears or trained in full.
        rows: the added items' input and output rows.
        points, images: branches; None in stages that do not show the modality.
        cloud_tokens, image_tokens: embeddings of a cloud and of an image (what the settings say, loaded or not).
        images_together: image_tokens are those of all images of a sample (`model.image_bridge=perceiver`), not of each.
        tokenizer, text_size, stage, settings, fingerprint: what checkpoints and the collator need.
        fresh: parts that a loaded checkpoint did not hold and that start anew (set by `weights.load_model`).
    """

    def __init__(
        self, backbone: Backbone, rows: AddedRows, points: Branch | None, images: Branch | None, stage: int, settings: Settings
    ) -> None:
        super().__init__()
        self.llm: PreTrainedModel = backbone.model
        self.rows, self.points, self.images = rows, points, images
        self.tokenizer: PreTrainedTokenizerFast = backbone.tokenizer
        self.text_size = backbone.text_size
        self.fingerprint = backbone.fingerprint
        self.stage, self.settings = stage, settings
        self.cloud_tokens, self.image_tokens = settings.model.point_tokens, settings.model.image_tokens
        self.images_together = settings.model.image_bridge == "perceiver"
        self.fresh: list[str] = []
        self.chunk = CHUNK
        self.attention = Attention(isolates=False)  # until it is settled
        self.spares = False  # the last layer of packed rows is computed at supervised positions alone

    @property
    def device(self) -> torch.device:
        """Where the decoder stands (its embedding may stay in RAM)."""
        return self.rows.input.device

    @property
    def positions(self) -> int:
        """Most tokens of prompt and answer together that the decoder is made for; 0: it names no limit."""
        return int(self.llm.config.get_text_config(decoder=True).to_dict().get("max_position_embeddings") or 0)

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, T, H] of a batch, each placeholder replaced by its feature, in order.

        Raises:
            CadmllmError: E701 when the batch holds a modality whose encoder this stage has not loaded; E901 when the numbers
                of placeholders and of features differ.
        """
        embeds = self.rows.embed(batch.input_ids, input_embedding(self.llm))
        clouds = images = None
        if batch.cloud_features is not None:
            clouds = self._branch(self.points, "point clouds", POINTS_STAGE).project(batch.cloud_features)
        elif batch.points is not None:
            clouds = self._branch(self.points, "point clouds", POINTS_STAGE)(batch.points, batch.normals)
        if batch.image_features is not None:
            images = self._branch(self.images, "images", IMAGES_STAGE).project(batch.image_features, batch.image_counts)
        elif batch.pixels is not None:
            images = self._branch(self.images, "images", IMAGES_STAGE)(batch.pixels, counts=batch.image_counts)
        embeds = self._place(embeds, batch.input_ids, POINTS, clouds)
        return self._place(embeds, batch.input_ids, IMAGE, images)

    def _branch(self, branch: Branch | None, what: str, stage: int) -> Branch:
        if branch is None:
            raise CadmllmError(
                "E701",
                f"the model is one of stage {self.stage}, which has no encoder for {what}",
                f"train or name a checkpoint of stage {stage}: `cadmllm train stage{stage}`, `--set infer.checkpoint=DIR`",
            )
        return branch

    def _place(self, embeds: Tensor, ids: Tensor, placeholder: str, features: Tensor | None) -> Tensor:
        places = ids == self.text_size + ADDED.index(placeholder)
        wanted, given = int(places.sum()), 0 if features is None else features.shape[0] * features.shape[1]
        if wanted != given:
            raise CadmllmError(
                "E901",
                f"the prompt has {wanted} {placeholder} placeholders and the encoder gave {given} features",
                "please report this: prompts are built for as many features as the encoder gives",
            )
        if features is None:
            return embeds
        return embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.dtype))

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the cross-entropy over the supervised positions (float32, with gradients), and their number.

        Padded batches are right-padded, so the causal mask alone hides the padding. The documents of a packed row are kept
        apart by the attention back end, which has to be settled first.
        """
        assert batch.labels is not None, "a batch without labels is a prompt"
        asked = asked_of(batch) if batch.documents and self.spares and batch.supervised else None
        options = self.attention.arguments(batch) | ({} if asked is None else {"asked": asked})
        hidden = self.llm(inputs_embeds=self.embed(batch), use_cache=False, **options).last_hidden_state
        if asked is not None:
            return summed_loss(hidden[0], batch.labels[0, asked.places + 1], self.rows, self.chunk)
        return supervised_loss(hidden, batch.labels, self.rows, self.chunk)

    forward = loss  # wrappers call forward

    def settle_attention(self) -> Attention:
        """Choose the attention back end for training by `settings.model.attention`, proven on this decoder (`attention.settle`).

        Raises:
            CadmllmError: E612 when the one that was asked for does not run here.
        """
        dtype = getattr(torch, self.settings.dtype)
        self.attention = settle(self.llm, self.settings.model.attention, self.device, dtype)
        ours = self.attention.name in ("sdpa", "varlen")  # others would not know what is asked
        self.spares = ours and not self.settings.train.compile and spare_last_layer(self.llm)
        return self.attention

    @torch.no_grad()
    def step(
        self, embeds: Tensor | None, ids: Tensor | None, mask: Tensor, positions: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """One step of generation, in evaluation mode.

        Args:
            embeds: [B, T, H], the prompts' embeddings; or None and
            ids: [B, T] int64, the tokens that follow (item k of `ADDED` is text_size + k).
            mask: [B, all tokens so far], 1 where there is a token (prompts are left-padded).
            positions: [B, T], of the tokens given.
            cache: what the step before returned, perhaps with fewer rows by now; None at first.

        Returns:
            logits [B, CAD_SIZE] after the last token given, float32; the cache, a `cache.RowCache`.
        """
        from cadmllm.models.cache import empty_cache

        if embeds is None:
            assert ids is not None
            embeds = self.rows.embed(ids, input_embedding(self.llm))
        out = self.llm(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=empty_cache(self.llm.config) if cache is None else cache,
            use_cache=True,
        )
        return self.rows.logits(out.last_hidden_state[:, -1]), out.past_key_values

    def parameter_groups(self) -> dict[str, list[tuple[str, Parameter]]]:
        """What trains: 'llm' (LoRA or everything), 'rows', 'projectors', 'encoders'; names as in `named_parameters`."""
        groups: dict[str, list[tuple[str, Parameter]]] = {"llm": [], "rows": [], "projectors": [], "encoders": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[_component(name)].append((name, parameter))
        return groups

    def describe(self) -> list[dict[str, int | str]]:
        """A row a component: {'component', 'parameters', 'trainable'}, and their 'total'.

        Weights in 4 bits are packed two a byte; they count as the values they stand for.
        """
        counts = {name: [0, 0] for name in ("llm", "rows", "projectors", "encoders")}
        for name, parameter in self.named_parameters():
            size = parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)
            counts[_component(name)][0] += size
            counts[_component(name)][1] += size if parameter.requires_grad else 0
        rows = [{"component": name, "parameters": all_, "trainable": some} for name, (all_, some) in counts.items() if all_]
        total = [sum(column) for column in zip(*counts.values(), strict=True)]
        return [*rows, {"component": "total", "parameters": total[0], "trainable": total[1]}]


def _component(name: str) -> str:
    top, *rest = name.split(".")
    if top in ("points", "images"):
        return "encoders" if rest[0] == "encoder" else "projectors"
    return top


def build_model(
    settings: Settings,
    stage: int,
    device: torch.device | str | None = None,
    cached: Mapping[str, tuple[int, int]] | None = None,
    backbone: Backbone | None = None,
) -> CadMLLM:
    """The model of a stage with fresh LoRA, rows and projectors; encoders of later stages are not loaded.

    Everything random depends on `settings.train.seed` alone. The model is on `device` (default: the settings'), but for the
    frozen prompt embedding under `model.embedding_device=cpu`.

    Args:
        settings: resolved settings.
        stage: 1 (text), 2 (and clouds), 3 (and images).
        device: where to.
        cached: (features that an encoder gives, their width) by branch ('points', 'images'): the frozen encoders of these are
            not loaded, as their features come with the batches. Everything else is as without.
        backbone: a language model that is loaded already; None: the one that the settings name.

    Raises:
        CadmllmError: E501 (language model), E502 (encoder), E102 (settings that do not go together).
    """
    cached = cached or {}
    target = pick_device(settings) if device is None else torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.train.seed)
        backbone = backbone or load_backbone(settings, target)
        embedding = input_embedding(backbone.model)
        std = float(embedding.weight[: backbone.text_size : 1 + backbone.text_size // 2048].detach().float().std())
        width = embedding.embedding_dim
        rows = AddedRows(backbone.text_size, width, std, settings.train.seed)
        if backbone.rows_init is not None:
            rows.load_state_dict(backbone.rows_init)
        points = points_branch(settings, width, std, cached.get("points")) if stage >= POINTS_STAGE else None
        images = images_branch(settings, width, std, cached.get("images")) if stage >= IMAGES_STAGE else None
    if settings.train.gradient_checkpointing:
        checkpoint_layers(backbone.model)
    model = CadMLLM(backbone, rows, points, images, stage, settings)
    quantized = settings.model.quantization == "nf4"
    for part in (rows, points, images) if quantized else (model,):
        if part is not None:
            part.to(target)
    if settings.model.embedding_device == "cpu" and settings.lora.enabled:
        embedding.to("cpu")
        if target.type == "cuda":
            torch.cuda.empty_cache()  # it came by way of the card
    return model.train()
