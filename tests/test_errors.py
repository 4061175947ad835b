"""The error type, the table of codes, and the table of what mends each."""

from __future__ import annotations

import functools
import pickle
import re
import shlex
from pathlib import Path

import pytest

from cadmllm.errors import CODES, CadmllmError, Exit
from cadmllm.remedies import REMEDIES, remedy_of

ROOT = Path(__file__).resolve().parents[1]
QUOTED = re.compile(r"`([^`]*)`")
SETTING = re.compile(r"--set ([a-z_0-9.]+)=(\S*)")


def test_codes_are_well_formed_and_in_order():
    assert all(re.fullmatch(r"E[1-9]\d\d", code) for code in CODES)
    assert list(CODES) == sorted(CODES)
    assert all(meaning and meaning[0] != " " and not meaning.endswith(".") for meaning in CODES.values())


def test_an_unknown_code_is_refused():
    with pytest.raises(KeyError, match="E000"):
        CadmllmError("E000", "x", "y")


def test_it_survives_the_way_from_a_worker_process():
    error = CadmllmError("E105", "a and b", "leave one out", exit_code=Exit.USAGE)
    back = pickle.loads(pickle.dumps(error))
    assert back.as_dict() == {"code": "E105", "message": "a and b", "remedy": "leave one out"}
    assert back.exit_code is Exit.USAGE
    assert str(back) == "E105: a and b"


def test_every_code_has_a_remedy_in_the_same_order():
    assert list(REMEDIES) == list(CODES)


@pytest.mark.parametrize("code", REMEDIES)
def test_a_remedy_is_one_line_whose_commands_are_marked(code):
    text = REMEDIES[code]
    assert text.strip() == text
    assert "\n" not in text
    assert not text.endswith((".", ";", ","))
    assert text.count("`") % 2 == 0
    outside = QUOTED.sub("", text)
    assert "--" not in outside, "an option that nothing checks: put it into backticks"
    assert not re.search(r"\bcadmllm (doctor|train|data|infer|report|convert|config|plan)\b", outside)
    assert "`" not in remedy_of(code)


def commands() -> list[tuple[str, str]]:
    """(code, command line) of every command of ours; options alone are those of `cadmllm train`."""
    found = []
    for code, text in REMEDIES.items():
        for quoted in QUOTED.findall(text):
            for part in quoted.partition(" > ")[0].split(" && "):
                if part.startswith("--"):
                    found.append((code, f"cadmllm train stage1 {part}"))
                elif "cadmllm" in part.split() or part.startswith("cadmllm"):
                    found.append((code, part[part.index("cadmllm") :]))
    return found


@functools.cache
def program():
    """The Typer app, built once."""
    from cadmllm.cli import build

    return build()


def parsed(line: str):
    """The shared options of a command line, after Typer has parsed the rest as the program would."""
    import typer.core

    from cadmllm.commands._options import split

    root = program()
    rest, shared = split(root, shlex.split(line)[1:])
    place: object = root
    while isinstance(place, typer.core.TyperGroup):
        if place is not root and place.invoke_without_command and (not rest or rest[0].startswith("-")):
            break  # `eval` does something by itself
        if rest[0].startswith("-"):
            assert rest in (["--help"], ["--version"])
            return shared
        place = place.commands[rest.pop(0)]
    if rest != ["--help"]:
        place.make_context("cadmllm", list(rest))  # type: ignore[attr-defined]  # raises what a user would see
    return shared


@pytest.mark.parametrize(("code", "line"), commands())
def test_the_commands_of_remedies_parse(code, line, tmp_path, monkeypatch):
    from cadmllm.commands.train import STAGES
    from cadmllm.keys import known_keys
    from cadmllm.resolve import preset_names

    monkeypatch.chdir(tmp_path)
    shared = parsed(line)
    if shared.command == "train":
        assert {word for word in shlex.split(line) if re.match(r"stage\d|all$", word)} <= set(STAGES)
    assert {key for key, _, _ in shared.given} <= set(known_keys())
    assert shared.preset is None or shared.preset in preset_names()
    given = [item for item in shared.given if not re.search(r"FOLDER|FILE|DIR", item[1])]
    shared.given[:] = given
    shared.resolve()  # raises for a value that the settings refuse


def test_a_command_that_does_not_exist_would_be_seen():
    assert len(commands()) > 100
    for line in ("cadmllm data chek ROOT", "cadmllm data check ROOT --quarantin DIR", "cadmllm doctor --stage 4"):
        with pytest.raises(Exception, match=r"no command|no option|less than or equal to 3"):
            parsed(line)


def test_the_torch_of_remedies_is_the_one_that_the_tests_run_with():
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert f"torch=={pinned.group(1)}+cu130" in REMEDIES["E812"]


def test_the_link_of_michelangelo_is_the_one_that_is_printed():
    source = (ROOT / "cadmllm" / "models" / "michelangelo.py").read_text(encoding="utf-8")  # importing it would import torch
    link = re.search(r'^DOWNLOAD = "(.+)"$', source, re.MULTILINE)
    assert link is not None
    assert all(link.group(1) in REMEDIES[code] for code in ("E502", "E505", "E507"))
