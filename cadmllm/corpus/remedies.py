"""What mends each kind of flaw, as a command that can be pasted into a shell."""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from cadmllm.corpus.facts import Level


@dataclass(frozen=True, slots=True)
class Place:
    """What the commands of remedies name.

    Attributes:
        root: of the data set.
        stage: that was asked for.
    """

    root: Path
    stage: int = 1

    @property
    def words(self) -> dict[str, str]:
        """Quoted for a shell: the root, a folder beside it for derived files, one for what is bad."""
        whole = self.root.absolute()
        beside = {"derived": whole.parent / f"{whole.name}-derived", "bad": whole.parent / f"{whole.name}-bad"}
        return {"root": quoted(self.root), "stage": str(self.stage)} | {name: quoted(path) for name, path in beside.items()}


def quoted(path: str | Path) -> str:
    """A path as one word of a shell."""
    return shlex.quote(str(path))


_CLOUDS = "make these clouds anew: cadmllm data prepare {root} --out {derived} --points, then --set data.points={derived}/pcd"
_VIEWS = "make these views anew: cadmllm data prepare {root} --out {derived} --views, then --set data.img={derived}/img"
_ASIDE = "cadmllm data check {root} --quarantine {bad}"
_PROGRAMS = "get these files again from where the data set comes from, or put them aside: " + _ASIDE
_LISTED = "correct them where they stand, or leave these ids out: cadmllm data check {root} --quarantine {bad} --list-only"
_SUSPECT = (
    "to leave them out: cadmllm data check {root} --quarantine {bad} --list-only, then --set data.exclude={bad}/suspect.txt"
)
_ALLOW = "allow reading: chmod -R u+rX {first}, then: cadmllm data check {root}"
_LOOK = "they are used as far as they go; to see what of: cadmllm convert {first} /tmp/look.step"
_LONGER = "give them more time: cadmllm data check {root} --deep --set kernel.timeout=120; " + _SUSPECT
_DOUBT = "if they were not thinned out on purpose, make them anew: cadmllm data prepare {root} --out {derived} --points"
_AGAIN = "get these files again (a download that is resumed ends here, too), then: cadmllm data check {root}"
_WAIT = "when a download is going on, wait for its end and look again: cadmllm data check {root} --stage {stage}"

_REMEDIES = {
    "E401": "name its place: --set data.root=FOLDER, or make parts: cadmllm data synth --count 500 --out parts --points --views",
    "E402": "see where it breaks: python3 -m json.tool {first} > /dev/null; it must list objects with id and text caption",
    "E403": "rename these: such names are never opened. To see all: cadmllm data check {root} --quarantine {bad} --list-only",
    "E404": _CLOUDS,
    "E405": _VIEWS,
    "E407": "correct the list, or make new ones: cadmllm data split {root}",
    "E408": _LISTED,
    "E410": "iconv -f $(file -b --mime-encoding {first}) -t UTF-8 {first} -o {first}.utf8 && mv {first}.utf8 {first}",
    "E411": "their programs are missing in json/; " + _WAIT,
    "E412": "their captions are missing in txt/; " + _WAIT,
    "E413": "they are not used: get the captions and programs of these ids, or remove the clouds; " + _WAIT,
    "E414": "they are not used: get the captions and programs of these ids, or remove the views; " + _WAIT,
    "E415": "nothing reads them: rename them as docs/data.md shows, or remove them; the first: mv {first} {bad}",
    "E416": "all of them are drawn in training; keep one where they disagree: grep -n {first} {root}/txt/*.json",
    "E417": "remove the one that is not used: rm {first}",
    "E418": "give one of each pair another name, in txt/ as well: mv {root}/json/{first}.json {root}/json/{first}-2.json",
    "E419": "remove the link: rm {first}; or, if you trust where it leads, name that folder: --set data.root=FOLDER",
    "E420": "remove it: rm {first}",
    "E421": _AGAIN,
    "E422": _WAIT + "; else get these files again",
    "E423": _WAIT,
    "E424": "git lfs pull (in the folder of the data set), or download the file itself, not its web page",
    "E430": _CLOUDS,
    "E431": _CLOUDS,
    "E432": "make larger ones: cadmllm data prepare {root} --out {derived} --points, or --set model.point_count=1024",
    "E433": _CLOUDS,
    "E434": _CLOUDS,
    "E435": "they are scaled when they are read; to have them as ours are: cadmllm data prepare {root} --out {derived} --points",
    "E436": "they are estimated at each reading; to store true ones: cadmllm data prepare {root} --out {derived} --points",
    "E440": _VIEWS,
    "E441": _VIEWS,
    "E442": _VIEWS,
    "E443": "draw all eight: cadmllm data prepare {root} --out {derived} --views, then --set data.img={derived}/img; " + _WAIT,
    "E444": _VIEWS,
    "E445": _VIEWS,
    "E451": "nothing but the end of the caption is lost; to keep it: --set train.max_seq_length=4096",
    "E461": "features of these parts were lost before the file was written; " + _SUSPECT,
    "E462": "put these clouds aside: " + _ASIDE + "; make true ones: cadmllm data prepare {root} --out {derived} --points",
    "E463": "keep them on one side of the split: cadmllm data split {root}",
    "E302": "put these programs aside: " + _ASIDE,
    "E602": "training leaves them out; to make room: --set train.max_seq_length=4096",
    "E832": "cp -r {root} ~/",
}
_BY_LEVEL = {("E302", "warn"): _LONGER, ("E462", "warn"): _DOUBT, ("E432", "fail"): _CLOUDS}


def remedy(code: str, level: Level, place: Place, first: str, message: str = "") -> str:
    """What mends a flaw of this code.

    Args:
        code: of `errors.CODES`.
        level: of the flaw; what is only suspect need not be put aside.
        place: what the command names.
        first: the first path that has the flaw.
        message: of the first flaw.
    """
    default = _PROGRAMS if level == "fail" else _LOOK
    text = _BY_LEVEL.get((code, level)) or _REMEDIES.get(code, default)
    if os.strerror(errno.EACCES) in message:
        text = _ALLOW
    return text.format(first=quoted(first), **place.words)
