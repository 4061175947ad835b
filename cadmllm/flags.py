"""The guide's flags: one row each, from the flag to the setting it stands for. Standard library only.

They work on every command, with dashes or underscores; `cadmllm config flags` prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass

ON = frozenset({"true", "1", "yes", "on"})
OFF = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: with underscores, without the leading dashes.
        key: the dotted setting; "" for `start_from_stage`, which names stages and is no setting.
        switch: the value is optional (`--use_lora`, `--use_lora true`, `--no-use_lora`).
        commands: the commands that know the flag; empty: all of them.
        help: what it does, where the setting's own description does not say it.
    """

    name: str
    key: str
    switch: bool = False
    commands: tuple[str, ...] = ()
    help: str = ""

    @property
    def spelling(self) -> str:
        """As the guide writes it."""
        return f"--{self.name}"


def _stage_flags() -> tuple[Flag, ...]:
    rows = [(Flag(f"stage{n}_epochs", f"stages.{n}.epochs"), Flag(f"stage{n}_lr", f"stages.{n}.lr")) for n in (1, 2, 3)]
    return tuple(flag for row in rows for flag in row)


EVALS = ("eval", "eval robustness")
ANSWERS = ("infer", *EVALS)
EXPORT = ("export",)
FLAGS: tuple[Flag, ...] = (
    Flag("llm_model_name", "model.llm"),
    Flag("use_lora", "lora.enabled", switch=True),
    Flag("lora_r", "lora.r"),
    Flag("lora_alpha", "lora.alpha"),
    Flag("omnicad_txt_path", "data.txt"),
    Flag("omnicad_json_root", "data.json"),
    Flag("omnicad_img_root", "data.img"),
    Flag("omnicad_pc_root", "data.points"),
    Flag("train_data_path", "data.train"),
    Flag("val_data_path", "data.val"),
    Flag("batch_size", "infer.batch_size", commands=ANSWERS),
    Flag("batch_size", "train.batch_size"),
    Flag("gradient_accumulation_steps", "train.accumulation"),
    Flag("max_seq_length", "train.max_seq_length"),
    Flag("warmup_steps", "train.warmup_steps"),
    Flag("seed", "infer.seed", commands=ANSWERS),
    Flag("seed", "train.seed"),
    Flag("logging_steps", "train.logging_steps"),
    Flag("save_steps", "train.save_steps"),
    Flag("projector_lr_multiplier", "train.projector_lr_multiplier"),
    Flag("gradient_checkpointing", "train.gradient_checkpointing", switch=True),
    *_stage_flags(),
    Flag("start_from_stage", "", help="the first stage to train: 1, 2 or 3"),
    Flag("resume_from_ckpt", "run.init_from"),
    Flag("output_dir", "run.dir"),
    Flag("create_dummy_data", "data.synthetic", switch=True, help="train on 100 generated parts (see num_dummy_samples)"),
    Flag("num_dummy_samples", "data.synthetic", help="train on so many generated parts"),
    Flag("use_wandb", "wandb.mode", switch=True, help="online, or what WANDB_MODE says"),
    Flag("wandb_project", "wandb.project"),
    Flag("wandb_run_name", "wandb.run_name"),
    Flag("wandb_entity", "wandb.entity"),
    Flag("device", "device"),
    Flag("dtype", "dtype"),
    Flag("checkpoint_path", "infer.checkpoint"),
    Flag("model_path", "infer.checkpoint"),
    Flag("checkpoint", "infer.checkpoint", commands=(*ANSWERS, *EXPORT)),
    Flag("out", "infer.out", commands=("infer",)),
    Flag("out", "eval.out", commands=EVALS),
    Flag("out", "export.out", commands=EXPORT),
    Flag("to", "export.to", commands=EXPORT),
    Flag("dtype", "export.dtype", commands=EXPORT),
    Flag("max_new_tokens", "infer.max_new_tokens", commands=ANSWERS),
    Flag("temperature", "infer.temperature", commands=ANSWERS),
    Flag("top_p", "infer.top_p", commands=ANSWERS),
    Flag("candidates", "infer.candidates", commands=ANSWERS),
    Flag("repair", "infer.repair", switch=True, commands=ANSWERS),
    Flag("grammar", "infer.grammar", switch=True, commands=ANSWERS),
    Flag("units", "infer.units", commands=("infer",)),
    Flag("clean", "infer.clean", switch=True, commands=("infer",)),
    Flag("split", "eval.split", commands=EVALS),
    Flag("modalities", "eval.modalities", commands=EVALS),
    Flag("samples", "eval.samples", commands=EVALS),
)
DUMMY_SAMPLES = 100  # what the guide's --create_dummy_data makes


def flags_of(command: str) -> dict[str, Flag]:
    """The flags that `command` ('train', 'data synth') knows, by name with underscores."""
    found: dict[str, Flag] = {}
    for flag in FLAGS:
        if command in flag.commands or (not flag.commands and flag.name not in found):
            found[flag.name] = flag
    return found


def switch_value(flag: Flag, on: bool, wandb_mode: str | None) -> str:
    """What the setting of a switch becomes.

    Args:
        flag: a row with `switch`.
        on: whether it was switched on.
        wandb_mode: the environment variable WANDB_MODE, which decides between online and offline.
    """
    if flag.name == "use_wandb":
        known = {"offline": "offline", "dryrun": "offline", "disabled": "off"}
        return known.get((wandb_mode or "").lower(), "online") if on else "off"
    if flag.name == "create_dummy_data":
        return str(DUMMY_SAMPLES) if on else "0"
    return "true" if on else "false"
