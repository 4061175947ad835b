"""What mends each kind of failure in general; the message of an error names the exact file and value.

Commands and edits stand in backticks, with capitals for what the user fills in. What begins with `--` is added to the command
that failed (`cadmllm train ...`, `cadmllm doctor ...`). `tests/test_errors.py` parses every command of ours and every setting.
"""

from __future__ import annotations

_ASIDE = "`cadmllm data check ROOT --quarantine DIR`"
_PROGRAM = f"correct the file, get it again from where the data set comes from, or put such files aside: {_ASIDE}"
_CLOUDS = "make the clouds anew: `cadmllm data prepare ROOT --out DIR --points`, then `--set data.points=DIR/pcd`"
_VIEWS = "make the views anew: `cadmllm data prepare ROOT --out DIR --views`, then `--set data.img=DIR/img`"
_WAIT = "wait for the download's end, then look again: `cadmllm data check ROOT`"
_POINTS_FILE = (  # the link of the training guide
    "download https://drive.google.com/file/d/1wzfa4EoijmyfTpLPfma9r03wvQ_mbjFD/view and name it: "
    "`--set model.points_checkpoint=FILE`"
)
_OWN_ENCODERS = "the encoders that need no file: `--set model.points_encoder=fourier`, `--set model.image_encoder=tiny`"
_LESS_MEMORY = (
    "what fits is written into cadmllm.toml by `cadmllm doctor --apply`; by hand, in this order: "
    "`--set train.gradient_checkpointing=true`, `--set model.quantization=nf4`, `--set model.embedding_device=cpu`, "
    "`--set train.optimizer=paged_adamw_8bit`, `--set train.max_seq_length=2048`, `--set model.llm=Qwen/Qwen3-4B`"
)
_WSL_MEMORY = r"write `memory=24GB` under `[wsl2]` in `%UserProfile%\.wslconfig`, then, on Windows: `wsl --shutdown`"
_TORCH = "`pip install torch==2.13.0+cu130 --extra-index-url https://download.pytorch.org/whl/cu130`"  # 2.12 and later: no cu128

REMEDIES: dict[str, str] = {
    # settings and command line
    "E101": "list all settings: `cadmllm config keys`; the message names the nearest one",
    "E102": "give a value of the type and range that the message names; see also `cadmllm config keys`",
    "E103": "name one of `cadmllm config presets`, or the path of a .toml file of your own",
    "E104": r"correct the line that the message names (Windows paths stand in single quotes: `root = 'W:\data'`), or write a new "
    "file: `mv cadmllm.toml OLD.toml && cadmllm config show > cadmllm.toml`",
    "E105": "leave one of the two options out, or add the one that the message asks for",
    "E106": "see the options of a command: `cadmllm train --help`; all commands: `cadmllm --help`",
    # the CAD language and its files
    "E201": "check the path (`ls -l FILE`) and allow reading: `chmod -R u+rX ROOT`",
    "E202": "see where it breaks: `python3 -m json.tool FILE`; copy the file again from its source",
    "E203": "give a DeepCAD or Omni-CAD JSON file: an object with `entities` and `sequence`",
    "E204": _PROGRAM,
    "E205": f"correct the number that the message names, or put such files aside: {_ASIDE}",
    "E206": _PROGRAM,
    "E207": f"close the loop, or put such files aside: {_ASIDE}",
    "E208": f"remove the curve that the message names, or put such files aside: {_ASIDE}",
    "E209": _PROGRAM,
    "E210": "give a DeepCAD .h5 file: the dataset `vec`, integer rows of 17",
    "E211": "correct the line that the message names; token text is what `cadmllm convert FILE.json FILE.txt` writes",
    "E212": "write another format: `cadmllm convert FILE.json FILE.txt`; or leave the part out",
    "E213": "end the name of the output in .json .h5 .txt .py .step .stl .glb or .png: `cadmllm convert IN OUT`",
    "E214": f"remove the taper, or put such files aside: {_ASIDE}",
    # kernel and outputs
    "E301": "see what is broken: `cadmllm doctor`; install the kernel again: "
    '`pip install --force-reinstall --no-deps "cadquery-ocp-novtk>=8.0,<8.1"`',
    "E302": f"put such programs aside: {_ASIDE}; give slow ones more time: `--set kernel.timeout=120`",
    "E303": "make room (`df -h DIR`), or name a folder that exists and can be written",
    # data sets
    "E401": "name its place: `--set data.root=FOLDER`; or make parts: "
    "`cadmllm data synth --count 500 --out DIR --points --views`",
    "E402": "see where it breaks: `python3 -m json.tool FILE`; it must list objects with `id` and `text caption`",
    "E403": "rename the files: such ids are never opened; to see all: `cadmllm data check ROOT --quarantine DIR --list-only`",
    "E404": _CLOUDS,
    "E405": _VIEWS,
    "E406": "see what each stage can train on: `cadmllm data check ROOT --stage 2`; make what is missing: "
    "`cadmllm data prepare ROOT --out DIR --points --views`; or leave the stage out: `--set stages.2.epochs=0`",
    "E407": "correct the list (an id a line, as `0000/00000071_00005`), or make new ones: `cadmllm data split ROOT`",
    "E408": "correct the captions, or leave these ids out: `cadmllm data check ROOT --quarantine DIR --list-only`, then "
    "`--set data.exclude=DIR/ids.txt`",
    "E409": "name another folder, as in `cadmllm data split ROOT --out DIR`; or move what is in it away; "
    "while another process writes there, wait for it",
    "E410": "save it as UTF-8: `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`",
    "E411": "bring its program into json/; " + _WAIT,
    "E412": "bring its caption into txt/; " + _WAIT,
    "E413": "bring caption and program of the id, or remove the cloud: it is not used; " + _WAIT,
    "E414": "bring caption and program of the id, or remove the views: they are not used; " + _WAIT,
    "E415": "rename it as docs/data.md shows, or move it out of the data set: nothing reads it",
    "E416": "keep one where they disagree (`grep -n ID ROOT/txt/*.json`): all of them are drawn in training",
    "E417": "remove the one that is not used: `rm FILE`",
    "E418": "give one of each pair another name, in its caption as well",
    "E419": "remove the link (`rm FILE`), or name the folder that it leads to: `--set data.root=FOLDER`",
    "E420": "remove it from the data set: `rm FILE`",
    "E421": "get the file again; a download that is resumed ends here, too",
    "E422": _WAIT + "; else get these files again",
    "E423": _WAIT,
    "E424": "in the folder of the data set: `git lfs pull`; or download the file itself, not its web page",
    "E430": _CLOUDS,
    "E431": _CLOUDS,
    "E432": "make larger ones: `cadmllm data prepare ROOT --out DIR --points`; or show fewer: `--set model.point_count=1024`",
    "E433": _CLOUDS,
    "E434": _CLOUDS,
    "E435": "nothing need be done: they are scaled when they are read; to have them as ours are: "
    "`cadmllm data prepare ROOT --out DIR --points`",
    "E436": "nothing need be done: they are estimated at each reading; to store true ones: "
    "`cadmllm data prepare ROOT --out DIR --points`",
    "E437": "give fewer points, e.g. every tenth; 100,000 are more than any encoder sees",
    "E438": "export the mesh again from the program that made it, as binary STL in a file of its own; or give points: "
    "`cadmllm infer --pc FILE.npz`; in a data set take points of surfaces: `cadmllm data prepare ROOT --out DIR --points`",
    "E440": _VIEWS,
    "E441": _VIEWS,
    "E442": _VIEWS,
    "E443": "draw all eight: `cadmllm data prepare ROOT --out DIR --views`, then `--set data.img=DIR/img`",
    "E444": _VIEWS,
    "E445": _VIEWS,
    "E451": "nothing but the end of the caption is lost; to keep it: `--set train.max_seq_length=4096`",
    "E461": "leave such programs out: `cadmllm data check ROOT --deep --quarantine DIR --list-only`, then "
    "`--set data.exclude=DIR/suspect.txt`",
    "E462": "put these clouds aside: `cadmllm data check ROOT --deep --quarantine DIR`; make true ones: "
    "`cadmllm data prepare ROOT --out DIR --points`",
    "E463": "keep them on one side of the split: `cadmllm data split ROOT`",
    "E464": "make room: `--set train.max_seq_length=4096`; how long targets are: `cadmllm data stats ROOT`",
    "E465": "take fewer samples a step: `--set train.accumulation=1`, `--set train.batch_size=1`",
    "E466": "make what is missing: `cadmllm data prepare ROOT --out DIR --points --views`; or wait for the download to end",
    "E470": "make them anew, with the options of the training: `cadmllm data encode ROOT --out DIR --overwrite`; or encode what "
    "has changed: `cadmllm data encode ROOT --out DIR`",
    "E471": "encode what is missing: `cadmllm data encode ROOT --out DIR`; mend what is damaged: "
    "`cadmllm data encode ROOT --out DIR --verify`; or train without: `--set data.features=`",
    "E472": "use a frozen encoder (`--set model.train_encoders=false`), or train without cached features: `--set data.features=`",
    "E480": "move it away: `mv FILE FILE.broken`; the files it names are then kept as someone else's",
    "E481": "install Ray (`pip install 'cadmllm[ray]'`) and start it (`ray start --head`), or do without: "
    "`cadmllm data prepare ROOT --out DIR --engine local`",
    "E482": "give a folder on a local disk that can be written: `--set data.index=FOLDER`",
    "E490": 'give {"train": [ids], "validation": [ids], "test": [ids]} as JSON, or lists called after their side (test.txt); or '
    "make new ones: `cadmllm data split ROOT`",
    # models, encoders and checkpoints
    "E501": "download it before the run: `hf download NAME`; or name a folder with config.json, tokenizer.json and "
    "*.safetensors: `--set model.llm=FOLDER`; the bundled base needs no download: `--set model.llm=tiny`",
    "E502": f"Michelangelo: {_POINTS_FILE}; DINOv2: `hf download facebook/dinov2-large`; or train {_OWN_ENCODERS}",
    "E503": "name a complete one: `--resume_from_ckpt FOLDER`; or go on with the stage that was to write it: "
    "`cadmllm train stage1 --resume`",
    "E504": "give the model settings that the checkpoint was made with (`cadmllm config show --origin`), or train the stage "
    "anew: `cadmllm train stage1 --overwrite`",
    "E505": "download the damaged files again: `hf cache verify NAME` says which, `hf download NAME --force-download` brings "
    f"them; Michelangelo: {_POINTS_FILE}; a checkpoint of yours: take the one before it: `--resume_from_ckpt FOLDER`",
    "E506": "get all files from one place: `hf download NAME --force-download`; a folder of your own: copy config.json, "
    "tokenizer.json and the weights from the same model",
    "E507": f"{_POINTS_FILE}; or train {_OWN_ENCODERS}",
    "E508": "download the weights again: `hf download NAME --force-download`; a checkpoint of yours: start from one before it: "
    "`--resume_from_ckpt FOLDER`",
    "E509": f"see whether it answers in 32 bit (`--set dtype=float32`); get its file again; or train {_OWN_ENCODERS}",
    # training
    "E601": "train the stage before (`cadmllm train stage1 stage2`), start from another checkpoint "
    "(`--resume_from_ckpt FOLDER`), or from the base model (`cadmllm train stage2 --from-scratch`)",
    "E602": "make room: `--set train.max_seq_length=4096`; or leave such ids out: `--set data.exclude=FILE`",
    "E603": "look at the samples that the message names: `cadmllm data check ROOT`; leave them out: `--set data.exclude=FILE`; "
    "or train the stage again at half the rate: `cadmllm train stage1 --overwrite --set stages.1.lr=1e-5`",
    "E604": "start the run without `--resume`, or name its folder: `--set run.dir=FOLDER`",
    "E605": "continue it: `--resume`; or keep it and train elsewhere: `--set run.dir=FOLDER`; or throw it away: `--overwrite`",
    "E606": "check these samples: `cadmllm data check ROOT`; make room for their targets: `--set train.max_seq_length=4096`",
    "E607": "make room (`df -h DIR`) or keep fewer saves (`--set train.save_total_limit=1`), then go on: `--resume`",
    "E608": "train the stage again without what may cut a gradient off: `--overwrite --set train.compile=false "
    "--set train.gradient_checkpointing=false --set train.offload_activations=false --set model.attention=sdpa`",
    "E609": f"{_LESS_MEMORY}; close what else uses the GPU: `nvidia-smi`",
    "E610": "start all processes with the same command, settings and data: "
    "`torchrun --standalone --nproc-per-node 4 -m cadmllm train all`; after a crash go on from the newest save: `--resume`",
    "E611": "name a run's folder: `cadmllm report RUN`; or make a run: `cadmllm train all --preset tiny`",
    "E612": "take the fastest that works: `--set model.attention=auto`",
    "E613": "by what the message names: `--set dtype=float16` (or `float32`), `--set train.optimizer=adamw`, "
    "`--set train.compile=false`, `--set train.offload_activations=false`, `--set train.distributed=ddp`",
    "E614": "look for the reason: `cadmllm doctor --only shm,files,memory`; go on without such processes: "
    "`--set train.workers=0`, `--resume`",
    # inference
    "E701": "train the stage that adds the encoder (`cadmllm train stage2 stage3`), or name a checkpoint that has it: "
    '`cadmllm infer --prompt "a cube" --checkpoint FOLDER`',
    "E702": 'draw other answers: `cadmllm infer --prompt "a cube" --temperature 0.8 --seed 1`; or make the prompt simpler',
    "E703": 'give a prompt, a picture or points: `cadmllm infer --prompt "a flange with six holes"`',
    "E704": "compute in 32 bit: `--set dtype=float32`; else name an earlier checkpoint: `--set infer.checkpoint=FOLDER`",
    "E705": 'write three sides and a unit, largest names as in a drawing: `cadmllm infer --prompt "a plate" --size 40x20x10mm`',
    "E706": "write a JSON object a line, with at least one of `prompt`, `images`, `points`; see docs/inference.md",
    "E707": "give at most 8 images of a part; `cadmllm train stage3 --set model.image_bridge=mlp` makes a model that takes more",
    # evaluation
    "E711": "name two folders whose files have the same names but for the ending: `cadmllm eval --predictions DIR --truth DIR`",
    "E712": "give .step, .stl, .obj, .ply, .glb, .json, .h5 or .txt; see what is in it: `cadmllm eval mesh FILE`",
    "E713": "name a split that has ids (`cadmllm data split ROOT` writes one), or another: `cadmllm eval --split val`",
    "E714": "name another folder: `cadmllm eval --out DIR`; or remove the old one",
    # export
    "E721": "export in a wider type: `cadmllm export --dtype bf16` (or fp32); if it still differs, please report it",
    "E722": "export it again: `cadmllm export --checkpoint FOLDER --to merged --out NEW_FOLDER`",
    "E723": "another format or type: `cadmllm export --to merged --dtype bf16`; see docs/export.md for what goes with what",
    "E724": "name the base in 16 or 32 bit, as safetensors: `cadmllm export --set model.llm=FOLDER`",
    # environment
    "E801": "`sudo apt-get install python3.11 python3.11-venv && make setup PYTHON=python3.11`",
    "E802": "in a checkout: `make setup`; a single package: `pip install --force-reinstall --no-deps -c constraints.txt PACKAGE`",
    "E803": "install the version that the tests run with: `pip install -c constraints.txt PACKAGE`",
    "E804": "`sudo apt-get install --no-install-recommends libgl1`, or the package that holds the file: `apt-file search FILE`",
    "E805": "install the set that the tests run with: `pip install -c constraints.txt PACKAGE`",
    "E806": "`pip install 'cadmllm[qlora]'` (for GGUF files `'cadmllm[gguf]'`); or do without: "
    "`--set model.quantization=none --set train.optimizer=adamw`",
    "E811": "install the NVIDIA driver until `nvidia-smi` shows the card (under WSL: the Windows driver alone); or train on the "
    "CPU: `--preset tiny`",
    "E812": f"install a build for this card: {_TORCH}; cards before Turing need cu126 in both places",
    "E813": f"{_LESS_MEMORY}; or take the preset for the card: `cadmllm config presets`",
    "E814": f"add memory or swap; under WSL {_WSL_MEMORY}; or need less: `--set kernel.workers=1 --set train.workers=0`",
    "E815": f"{_WSL_MEMORY}; or need less: `--set train.offload_activations=false --set train.workers=0`",
    "E816": "`sudo mount -o remount,size=8G /dev/shm` (docker: `docker run --shm-size=8g IMAGE`); or load in the process itself: "
    "`--set train.workers=0`",
    "E817": "in the shell that starts the run: `ulimit -n 65536`; for good: a line `* soft nofile 65536` in "
    "`/etc/security/limits.conf`",
    "E818": "`sudo timedatectl set-ntp true`; under WSL: `sudo hwclock -s`",
    "E819": "`sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
    "E821": "free some space (`df -h DIR`), keep fewer saves (`--set train.save_total_limit=1`), or write elsewhere: "
    "`--set run.dir=FOLDER`",
    "E822": "`sudo chown -R $USER DIR`, or write elsewhere: `--set run.dir=FOLDER`",
    "E823": "remove what is not needed (`df -i DIR`; many small files hold inodes), or write elsewhere: `--set run.dir=FOLDER`",
    "E824": "write to a local disk: `--set run.dir=FOLDER`, and copy the finished stage afterwards",
    "E831": "give the path as this system knows it, for example `--set data.root=data/Omni-CAD`",
    "E832": "copy it once: `cp -r ROOT ~/data`, then `--set data.root=~/data`; checkpoints: `--set run.dir=~/checkpoints`",
    "E833": "on Windows: `wsl --set-version DISTRIBUTION 2`, then `wsl --shutdown`",
    "E834": "use Linux; on Windows: `wsl --install`, and start cadmllm in its shell",
    "E841": "`wandb login`; or keep the logs here: `--set wandb.mode=offline`",
    "E842": "keep the logs here (`--set wandb.mode=offline`) and send them later: `wandb sync RUN/wandb/offline-run-*`",
    "E851": "update the driver (Ubuntu: `sudo ubuntu-drivers install`; under WSL: on Windows, then `wsl --shutdown`); or install "
    "an older CUDA build: `pip install torch==2.11.0+cu128 --extra-index-url https://download.pytorch.org/whl/cu128`",
    "E852": "close what the message names: `kill PID`; see all: `nvidia-smi`; or need less: `--set train.max_seq_length=2048`",
    "E853": "go round it: `--set model.attention=sdpa`, `--set model.quantization=none`, `--set train.optimizer=adamw` or "
    f"`--set dtype=float32`; update the driver; reinstall torch: {_TORCH}",
    "E854": "see why: `nvidia-smi -q -d TEMPERATURE,POWER,PERFORMANCE`; better cooling, or a lower limit: "
    "`sudo nvidia-smi -pl WATTS`",
    "E855": "put the card into the x16 slot next to the processor and look at the BIOS; the link under load: "
    "`nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current --format=csv`",
    "E856": "in the NVIDIA Control Panel on Windows set `CUDA - Sysmem Fallback Policy` to `Prefer No Sysmem Fallback`; need "
    "less: `--set train.max_seq_length=2048`; close what else uses the GPU: `nvidia-smi`",
    "E861": "believe the measured figure: leave as much room as it says, `--set train.pack_tokens=2048` makes steps smaller; and "
    "report the difference: `cadmllm doctor --deep --report FILE`",
    "E862": "leave out what may cut a gradient off: `--set train.compile=false --set train.gradient_checkpointing=false "
    "--set train.offload_activations=false --set model.attention=sdpa`; and report it: `cadmllm doctor --deep --report FILE`",
    "E863": "look at the sample: `cadmllm data show ID --root ROOT`; make room: `--set train.max_seq_length=4096`; if the sample "
    "is well, report it: `cadmllm doctor --deep --report FILE`",
    "E864": "see whether one of these is to blame: `--set train.compile=false --set model.attention=sdpa "
    "--set train.optimizer=adamw`; and report it: `cadmllm doctor --deep --report FILE`",
    "E865": "see whether precision is to blame (`--set dtype=float32`, `--set model.attention=sdpa`); and report it: "
    "`cadmllm doctor --deep --report FILE`",
    "E866": "more loader processes: `--set train.workers=4`; data on a local Linux disk; or encode once: "
    "`cadmllm data encode ROOT --out DIR`, then `--set data.features=DIR`",
    "E867": "mend what its message names, then prove again: `cadmllm doctor --deep`",
    "E899": "the other checks still count; go on without this one (`cadmllm doctor --skip CHECK`) and report it: "
    "`cadmllm doctor --report FILE`",
    # internal
    "E901": "report it with the file that the message names, which has the traceback",
}


def remedy_of(code: str) -> str:
    """What mends it, as a terminal shows it: without the backticks."""
    return REMEDIES[code].replace("`", "")
