"""THE settings: one pydantic model for every command; an unknown key is an error, never ignored.

Where each value comes from (default, preset, `cadmllm.toml`, environment, command line) is `resolve.py`'s business.
Defaults are the curriculum document's; presets carry the guide's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

COMBINATIONS = ("text", "text+point_cloud", "text+image", "text+point_cloud+image")


def reached(begin: dict[str, float], end: dict[str, float]) -> dict[str, float]:
    """The combinations that shares moving from `begin` to `end` (empty: nowhere) show at some time, and their largest shares."""
    most = {name: max(begin.get(name, 0.0), end.get(name, 0.0)) for name in COMBINATIONS}
    return {name: share for name, share in most.items() if share > 0.0}


class Group(BaseModel):
    """A group of settings: unknown keys are refused, values are checked on assignment, too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, protected_namespaces=())


def _point_tokens(value: object) -> object:
    """The words for Michelangelo's shape token and for all it gives, as numbers."""
    return {"shape": 1, "all": 257}.get(value, value) if isinstance(value, str) else value


PointTokens = Annotated[int, BeforeValidator(_point_tokens)]


class ModelSettings(Group):
    """What is trained: the language model and the encoders that speak to it."""

    llm: str = Field("Qwen/Qwen3-8B", description="hub name or local folder; 'tiny' is the bundled base")
    quantization: Literal["none", "nf4"] = Field("none", description="nf4: QLoRA through bitsandbytes (CUDA or CPU)")
    attention: Literal["auto", "sdpa", "varlen", "flex", "flash_attention_2", "eager"] = Field(
        "auto", description="attention back end; auto: the fastest that proves itself here"
    )
    embedding_device: Literal["auto", "cpu"] = Field("auto", description="cpu keeps the prompt embedding in RAM")
    points_encoder: Literal["michelangelo", "fourier"] = Field(
        "michelangelo", description="michelangelo: frozen, needs its checkpoint; fourier: trainable, needs none"
    )
    points_checkpoint: Path = Field(
        Path("checkpoints/michelangelo_point_encoder_state_dict.pt"), description="Michelangelo state dict or .ckpt"
    )
    point_count: int = Field(4096, ge=16, description="surface points an encoder sees")
    point_tokens: PointTokens = Field(
        257, ge=1, description="tokens a cloud; michelangelo: 'all' (257), 'shape' (1), any other number through a resampler"
    )
    point_sampling: Literal["uniform", "farthest"] = Field(
        "uniform", description="which points of a cloud an encoder sees: a random part, or points far from each other"
    )
    fourier_width: int = Field(256, ge=16, description="hidden width of the fourier encoder")
    image_encoder: str = Field("facebook/dinov2-large", description="hub name, local folder, or 'tiny' (trained here)")
    image_bridge: Literal["perceiver", "mlp"] = Field(
        "perceiver", description="perceiver: all views of a part become image_tokens tokens; mlp: image_tokens tokens a view"
    )
    image_tokens: int = Field(
        64, ge=1, description="perceiver: tokens of all views; mlp: tokens a view, n*n pooled patches, plus 1 with CLS (257: all)"
    )
    image_views: int = Field(1, ge=1, le=8, description="views a training sample shows")
    resampler_layers: int = Field(2, ge=1, le=12, description="blocks of a resampler (perceiver, or point_tokens in between)")
    resampler_width: int = Field(512, ge=16, description="width of a resampler")
    train_encoders: bool = Field(False, description="also train the encoders (the curriculum keeps them frozen)")

    @property
    def view_tokens(self) -> int:
        """Tokens that a prompt with `image_views` views spends on them."""
        return self.image_tokens * (1 if self.image_bridge == "perceiver" else self.image_views)


class LoraSettings(Group):
    """LoRA on the seven linear layers of every block."""

    enabled: bool = Field(True, description="false trains the whole language model")
    r: int = Field(16, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA scale is alpha / r")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout on LoRA's input")


class DataSettings(Group):
    """Where the data set lies (Omni-CAD layout) and which ids are used."""

    root: Path = Field(Path("data"), description="folder with json/ txt/ img/ pcd/ (or pointcloud/)")
    txt: Path | None = Field(None, description="captions; default root/txt")
    json_: Path | None = Field(None, alias="json", description="programs; default root/json")
    img: Path | None = Field(None, description="views; default root/img")
    points: Path | None = Field(None, description="clouds; default root/pcd, else root/pointcloud")
    train: Path | None = Field(None, description="training ids: a text file, an id a line, or a caption file")
    val: Path | None = Field(None, description="held-out ids, likewise; default root/val.txt, else a fixed share")
    test: Path | None = Field(None, description="ids for evaluation, never trained on; default root/test.txt if there is one")
    exclude: Path | None = Field(None, description="ids that are left out of everything (data check --quarantine writes one)")
    val_share: float = Field(0.05, ge=0.0, le=0.5, description="share held out where there is no such list")
    index: Path | None = Field(None, description="folder of the index; default ~/.cache/cadmllm (XDG_CACHE_HOME)")
    features: Path | None = Field(None, description="cached encoder features, made by data encode; encoders are then not loaded")
    draws: int = Field(0, ge=0, description="different draws of points an id has; 0: a new one at each visit")
    synthetic: int = Field(0, ge=0, description="train on so many generated parts made in a temporary root")

    model_config = ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=True)


class TrainSettings(Group):
    """The optimizer step and its rhythm. Steps are optimizer steps within a stage."""

    batch_size: int = Field(4, ge=1, description="samples a micro-batch")
    accumulation: int = Field(4, ge=1, description="micro-batches a step")
    max_seq_length: int = Field(2048, ge=32, description="tokens, prompt and features included")
    max_steps: int = Field(0, ge=0, description="end each stage after so many steps; 0: no limit but the epochs")
    warmup_steps: int = Field(100, ge=0, description="linear from 1/warmup_steps, then cosine")
    min_lr_share: float = Field(0.1, ge=0.0, le=1.0, description="the cosine ends at this share of the rate")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW, matrices only")
    clip: float = Field(1.0, gt=0.0, description="largest gradient norm")
    projector_lr_multiplier: float = Field(5.0, gt=0.0, description="projectors (and encoders made here) learn faster")
    encoder_lr: float | None = Field(
        None, ge=0.0, description="peak rate of encoders; unset: 1e-5 for pretrained ones, the projectors' for others; 0: frozen"
    )
    rows_lr_multiplier: float = Field(1.0, gt=0.0, description="the added rows' rate over the stage's")
    packing: bool = Field(True, description="several samples in a row, kept apart, instead of padding")
    pack_tokens: int = Field(0, ge=0, description="tokens of a packed micro-batch; 0: batch_size x max_seq_length")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field("adamw", description="8 bit: bitsandbytes")
    gradient_checkpointing: bool = Field(False, description="trade about a third more compute for memory")
    offload_activations: bool = Field(False, description="keep what the backward pass needs in main memory")
    compile: bool = Field(False, description="torch.compile the decoder's layers; the first steps take minutes")
    distributed: Literal["ddp", "fsdp"] = Field("ddp", description="with several processes: copies, or shards, of the model")
    modality_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of shown clouds and views that are dropped")
    adaptive_projector_lr: bool = Field(False, description="each projector's rate follows its own gradient")
    logging_steps: int = Field(10, ge=1, description="console and wandb; metrics.jsonl has every step")
    save_steps: int = Field(100, ge=0, description="a resumable save every so many steps; 0: at the stage's end alone")
    save_total_limit: int = Field(2, ge=1, description="step saves kept a stage")
    val_steps: int = Field(0, ge=0, description="validation loss every so many steps; 0: at the stage's end alone")
    val_samples: int = Field(64, ge=1, description="held-out samples a validation sees")
    judge_samples: int = Field(0, ge=0, description="held-out prompts answered and built by the CAD kernel at a stage's end")
    sample_steps: int = Field(0, ge=0, description="answer held-out prompts, with verdicts and pictures, every so many steps")
    samples: int = Field(4, ge=1, le=64, description="held-out prompts that are answered then")
    workers: int = Field(0, ge=0, description="loader processes")
    prefetch: int = Field(4, ge=1, description="steps a loader process prepares ahead")
    seed: int = Field(42, ge=0, description="order, modality draws, initialisation")


class StageSettings(Group):
    """One stage of the curriculum."""

    epochs: int = Field(5, ge=0, description="0 skips the stage")
    lr: float = Field(2e-5, gt=0.0, description="rate of LoRA (or of the whole model)")
    probabilities: dict[str, float] = Field(default_factory=lambda: {"text": 1.0}, description="by modality combination")
    probabilities_end: dict[str, float] = Field(
        default_factory=dict, description="where the probabilities move to within the stage, in a straight line; empty: nowhere"
    )
    patience: int = Field(0, ge=0, description="end the stage after so many validations without improvement; 0: never")

    @property
    def reached(self) -> dict[str, float]:
        """The combinations that the stage shows at some time, each with its largest share; these need not sum to 1."""
        return reached(self.probabilities, self.probabilities_end)

    @model_validator(mode="after")
    def _sum_to_one(self) -> StageSettings:
        for shares in (self.probabilities, self.probabilities_end or self.probabilities):
            unknown = sorted(set(shares) - set(COMBINATIONS))
            if unknown:
                raise ValueError(f"unknown modality combination {unknown[0]!r}; known: {', '.join(COMBINATIONS)}")
            if any(p < 0 for p in shares.values()) or abs(sum(shares.values()) - 1.0) > 1e-6:
                raise ValueError(f"probabilities must be >= 0 and sum to 1, not {sum(shares.values()):g}")
        return self


def _stage2() -> StageSettings:
    return StageSettings(probabilities={"text": 0.3, "text+point_cloud": 0.7})


def _stage3() -> StageSettings:
    mix = {"text": 0.2, "text+point_cloud": 0.3, "text+image": 0.2, "text+point_cloud+image": 0.3}
    return StageSettings(epochs=10, lr=1e-5, probabilities=mix)


class StagesSettings(Group):
    """The three stages; `settings.stages[2]` in code, `stages.2.lr` on the command line."""

    one: StageSettings = Field(default_factory=StageSettings, alias="1")
    two: StageSettings = Field(default_factory=_stage2, alias="2")
    three: StageSettings = Field(default_factory=_stage3, alias="3")

    model_config = ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=False)

    def __getitem__(self, stage: int) -> StageSettings:
        return (self.one, self.two, self.three)[stage - 1]


class RunSettings(Group):
    """Where a run lives."""

    dir: Path = Field(Path("checkpoints"), description="holds the stage folders and metrics.jsonl")
    init_from: Path | None = Field(None, description="checkpoint that the first stage starts from")


class WandbSettings(Group):
    """Weights & Biases."""

    mode: Literal["off", "offline", "online"] = Field("off", description="offline needs no network and no login")
    project: str = Field("CAD-MLLM-Curriculum", description="project")
    entity: str | None = Field(None, description="team or user")
    run_name: str | None = Field(None, description="default: model-lora-rR-lrLR-bsN-epE")


class InferSettings(Group):
    """Generation."""

    checkpoint: Path | None = Field(None, description="default: the newest complete stage of run.dir, else the tiny base")
    out: Path = Field(Path("out"), description="folder for the program, the solid, the picture and the record")
    max_new_tokens: int = Field(512, ge=16, le=16384, description="longest answer, end token included")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy")
    attempts: int = Field(4, ge=1, le=64, description="answers drawn until the kernel makes a solid of one")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus of sampling")
    seed: int = Field(0, ge=0, description="of sampling")
    grammar: bool = Field(True, description="answers cannot leave the grammar; false shows what the model does by itself")
    candidates: int = Field(1, ge=1, le=256, description="answers drawn side by side, of which the best solid is chosen")
    repair: bool = Field(False, description="mend an answer that the kernel refuses: heal gaps, drop the operation that fails")
    batch_size: int = Field(16, ge=1, le=1024, description="answers written side by side")
    units: Literal["mm", "cm", "m", "in", "ft"] = Field("mm", description="of given points and meshes, and of what comes out")
    clean: bool = Field(False, description="remove outliers from a given cloud")


class EvalSettings(Group):
    """Evaluation: `cadmllm eval`."""

    out: Path = Field(Path("eval"), description="folder for report.json, the rows, tables and pictures")
    split: Literal["train", "val", "test"] = Field(
        "test", description="whose ids are answered; test falls back to val, which is said"
    )
    modalities: str = Field("all", description="combinations to show, with commas (text,text+point_cloud); all: each that can be")
    samples: int = Field(0, ge=0, description="ids a combination; 0: all of the split")
    points: int = Field(
        8192, ge=64, le=1_000_000, description="surface points that distances are measured with (cadrille: 8,192)"
    )
    bootstrap: int = Field(1000, ge=0, le=1_000_000, description="resamples behind the 95 % intervals; 0: none")
    seed: int = Field(0, ge=0, description="of surface points, shown captions, points and views, and resamples")


class ExportSettings(Group):
    """Export: `cadmllm export`."""

    to: Literal["adapter", "merged", "gguf"] = Field(
        "merged", description="adapter: LoRA for peft; merged: a plain transformers model; gguf: the text part for llama.cpp"
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16", "q8_0", "q4_k_m"] = Field(
        "auto", description="of the weights; auto: as the run computed; q8_0 and q4_k_m: gguf alone"
    )
    out: Path = Field(Path("export"), description="folder for the export: new or empty")
    shard_gb: float = Field(4.0, gt=0.0, le=50.0, description="largest file of a merged model, GB (10^9 bytes)")


class KernelSettings(Group):
    """The CAD kernel's worker processes."""

    workers: int = Field(2, ge=1, description="worker processes")
    timeout: float = Field(30.0, gt=0.0, description="seconds a program may take, what is made of it included")
    memory: int = Field(4096, ge=0, description="MiB that the building of one program may take; 0: no limit")


class Settings(BaseSettings):
    """Everything `cadmllm` can be told."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    stages: StagesSettings = Field(default_factory=StagesSettings)
    run: RunSettings = Field(default_factory=RunSettings)
    wandb: WandbSettings = Field(default_factory=WandbSettings)
    infer: InferSettings = Field(default_factory=InferSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    kernel: KernelSettings = Field(default_factory=KernelSettings)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: cuda when there is one")
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="float16 uses a gradient scaler")

    model_config = SettingsConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come from `resolve.py` alone, which reads the environment and remembers where each value came from."""
        return (init_settings,)
