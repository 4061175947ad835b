"""Every failure a user can cause, under a stable code.

A `CadmllmError` says what was found, where, and the exact command that mends it. `cli.py` is the one place that turns it
into text or JSON and an exit code. Codes never change their meaning; a retired code is never used again.

Ranges: E1xx settings and command line, E2xx the CAD language and its files, E3xx kernel and outputs, E4xx data sets,
E5xx models, encoders and checkpoints, E6xx training, E7xx inference, evaluation, export, E8xx environment (doctor), E9xx internal
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Process exit codes."""

    DONE = 0
    USER = 1
    USAGE = 2
    INTERNAL = 3
    RESUMABLE = 75
    INTERRUPTED = 130
    PIPE = 141


CODES: dict[str, str] = {
    # settings and command line
    "E101": "unknown setting",
    "E102": "a setting has a value outside its type or range",
    "E103": "unknown preset",
    "E104": "a settings file is not valid TOML",
    "E105": "options that do not go together",
    "E106": "the command line is wrong (unknown option or command, missing or surplus argument)",
    # the CAD language and its files
    "E201": "file not found or not readable",
    "E202": "not valid JSON",
    "E203": "JSON of another schema",
    "E204": "unknown curve, operation or extent type",
    "E205": "a number is missing, not finite or out of range",
    "E206": "a profile or sketch that is named does not exist",
    "E207": "a loop is empty or not closed",
    "E208": "a degenerate curve (zero length, radius or sweep)",
    "E209": "the program has no extrude, or an extrude has no profile",
    "E210": "not a DeepCAD vector file",
    "E211": "the token text does not follow the grammar",
    "E212": "the program cannot be expressed in this representation",
    "E213": "this conversion is impossible or unknown",
    "E214": "a taper angle, which the CAD language does not have",
    # kernel and outputs
    "E301": "the CAD kernel cannot be loaded",
    "E302": "the kernel built no usable solid",
    "E303": "the output cannot be written",
    # data sets
    "E401": "the data set folder is missing or empty",
    "E402": "a caption file is not a list of id and text caption",
    "E403": "an unsafe id (absolute, with '..', or outside the data set)",
    "E404": "a point file is unreadable or of the wrong shape",
    "E405": "an image is unreadable",
    "E406": "no sample of the data set can train this stage",
    "E407": "a list of ids is unreadable or names unknown ids",
    "E408": "a caption is blank, too long or not text",
    "E409": "the output folder holds something else",
    "E410": "a text file is not UTF-8",
    "E411": "a caption without a program",
    "E412": "a program without a caption",
    "E413": "points of neither a caption nor a program",
    "E414": "views of neither a caption nor a program",
    "E415": "a file whose name fits nothing in its folder",
    "E416": "an id has more than one caption entry",
    "E417": "an id has more than one point file",
    "E418": "ids that differ in letter case or shard alone",
    "E419": "a link that leaves the data set",
    "E420": "not a regular file",
    "E421": "an empty file",
    "E422": "a file that is only partly downloaded",
    "E423": "a folder that is still growing",
    "E424": "a placeholder where a file should be (Git LFS pointer, web page)",
    "E430": "points of the wrong shape or type",
    "E431": "points that are not finite numbers",
    "E432": "fewer points than an encoder sees",
    "E433": "points that are all the same or on one line",
    "E434": "a cloud without thickness",
    "E435": "points that are not normalised",
    "E436": "normals that are missing or unusable",
    "E437": "a cloud with more points than are read",
    "E438": "a mesh that cannot be used",
    "E440": "an image is cut short",
    "E441": "an image is too small",
    "E442": "an image is blank",
    "E443": "views are missing",
    "E444": "an image is too large",
    "E445": "views of one id differ in size",
    "E451": "captions that will be cut",
    "E461": "the recorded bounding box disagrees with the program",
    "E462": "a cloud that belongs to another program",
    "E463": "programs that say the same",
    "E464": "many targets are too long for the settings",
    "E465": "fewer training samples than one optimizer step takes",
    "E466": "many samples lack what the stage shows",
    "E470": "cached features are stale",
    "E471": "cached features are missing or broken",
    "E472": "features of an encoder that is being trained cannot be cached",
    "E480": "the manifest of prepared files is broken",
    "E481": "Ray is not installed or cannot be reached",
    "E482": "the index of a data set cannot be used",
    "E490": "a split file is unreadable",
    # models, encoders and checkpoints
    "E501": "the language model cannot be loaded",
    "E502": "an encoder cannot be loaded",
    "E503": "a checkpoint is missing or incomplete",
    "E504": "a checkpoint does not fit this model",
    "E505": "a weights file is truncated or is none",
    "E506": "config, tokenizer and weights of a model do not agree",
    "E507": "an encoder's checkpoint lacks weights, or they have other shapes",
    "E508": "weights that are not finite numbers",
    "E509": "an encoder gives no usable answer",
    # training
    "E601": "the checkpoint of the stage before is missing",
    "E602": "a target is longer than max_seq_length",
    "E603": "non-finite loss or gradient",
    "E604": "nothing to resume",
    "E605": "the run folder holds another run",
    "E606": "a batch without a supervised token",
    "E607": "a checkpoint cannot be written",
    "E608": "a part that should learn gets no gradient",
    "E609": "out of memory even with the smallest micro-batch",
    "E610": "the processes of a run do not agree or cannot find each other",
    "E611": "a run folder without metrics",
    "E612": "this attention back end does not work here",
    "E613": "this optimizer or precision does not work here",
    "E614": "a process of the loader ended or hangs",
    # inference
    "E701": "the checkpoint has no encoder for this modality",
    "E702": "no solid came out",
    "E703": "nothing to generate from",
    "E704": "the model's scores are not finite numbers",
    "E705": "a size or a unit that cannot be read",
    "E706": "a batch file, or a line of it, that cannot be read",
    "E707": "more images of one part than the model reads",
    # evaluation
    "E711": "predictions and truth that do not belong together",
    "E712": "a shape that cannot be read",
    "E713": "nothing to evaluate",
    "E714": "the folder holds another evaluation",
    # export
    "E721": "an export answers differently from its checkpoint",
    "E722": "an export folder is incomplete or was changed",
    "E723": "this export cannot be made",
    "E724": "the base model's own weights, which an export needs, are not here",
    # environment
    "E801": "unsupported Python",
    "E802": "a required package is missing or broken",
    "E803": "a package is outside the supported range",
    "E804": "a system library is missing",
    "E805": "packages that are known not to work together",
    "E806": "an optional package that the settings need is missing or broken",
    "E811": "no CUDA device",
    "E812": "this torch has no kernels for this GPU",
    "E813": "too little GPU memory",
    "E814": "too little main memory",
    "E815": "the memory limit of WSL is too low for this run",
    "E816": "too little shared memory for the workers of the loader",
    "E817": "too few open files are allowed",
    "E818": "the clock is wrong",
    "E819": "inotify has no watches or instances left",
    "E821": "too little disk space",
    "E822": "a folder is not writable",
    "E823": "too few inodes",
    "E824": "a network file system under the run folder",
    "E831": "a Windows path where a Linux path is needed",
    "E832": "files on a Windows drive, which is slow under WSL",
    "E833": "WSL 1, which has no GPU",
    "E834": "an operating system that is not supported",
    "E841": "wandb is not logged in",
    "E842": "wandb cannot be reached",
    "E851": "the NVIDIA driver is too old for this torch",
    "E852": "other processes hold GPU memory",
    "E853": "a computation gives wrong numbers on this device",
    "E854": "the GPU is hot, throttled or short of power",
    "E855": "the GPU's PCIe link is narrow or slow",
    "E856": "GPU memory spills into main memory",
    "E861": "the memory of a real step differs from the plan",
    "E862": "what should learn does not, or what is frozen moves",
    "E863": "labels or placeholders of a sample are wrong",
    "E864": "a save that is loaded again does not go on to the same numbers",
    "E865": "training and inference compute different scores",
    "E866": "the loader is slower than training",
    "E867": "a proof could not be made",
    "E899": "a check itself failed",
    # internal
    "E901": "internal error",
}


class CadmllmError(Exception):
    """A failure with a stable code, what was found and where, and the command that mends it.

    Args:
        code: a key of `CODES`.
        message: what was found, and where (file, entity, value).
        remedy: the exact command or edit that mends it.
        exit_code: `Exit.USER` unless the command line itself is wrong (`Exit.USAGE`).
    """

    def __init__(self, code: str, message: str, remedy: str, *, exit_code: Exit = Exit.USER) -> None:
        if code not in CODES:
            raise KeyError(f"unknown error code {code}")
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code

    def as_dict(self) -> dict[str, str]:
        """The shape of an error under `--json`: code, message, remedy."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    def __reduce__(self):
        # keyword-only arguments would be lost when a worker process sends the error to its parent
        return _rebuild, (self.code, self.message, self.remedy, self.exit_code)


def _rebuild(code: str, message: str, remedy: str, exit_code: Exit) -> CadmllmError:
    return CadmllmError(code, message, remedy, exit_code=exit_code)
