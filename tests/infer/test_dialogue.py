"""What lines at the prompt mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.infer.dialogue import ALIASES, COMMANDS, WARM, Dialogue, completions
from cadmllm.settings import InferSettings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "my scan.ply", "c.ply"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "parts").mkdir()
    return tmp_path


@pytest.fixture
def talk(here: Path) -> Dialogue:
    return Dialogue(InferSettings())


def refused(talk: Dialogue, line: str, code: str) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        talk.handle(line)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_a_line_is_a_prompt(talk: Dialogue) -> None:
    turn = talk.handle("  a plate  \n")
    assert turn.deed == "answer"
    assert turn.request is not None
    assert (turn.request.text, turn.request.images, turn.request.points, turn.request.size) == ("a plate", (), (), None)
    assert turn.settings is talk.settings
    slashed = talk.handle("//not a command").request
    assert slashed is not None
    assert slashed.text == "/not a command"
    assert talk.handle("   ").deed == ""


def test_inputs_stay_in_force(talk: Dialogue) -> None:
    assert talk.handle("/image a.png").say == ("pictures: a.png",)
    assert talk.handle("/image b.png a.png").say == ("pictures: a.png, b.png",)
    assert talk.handle("/pc c.ply").say == ("points: c.ply",)
    assert talk.handle("/pc 'my scan.ply'").say == ("points: my scan.ply",)  # in place of the one before
    assert talk.handle("/size 40 x 20 mm").say == ("size: 40 x 20 mm",)
    for text in ("one", "two"):
        request = talk.handle(text).request
        assert request is not None
        assert request.images == (Path("a.png"), Path("b.png"))
        assert request.points == (Path("my scan.ply"),)
        assert request.size == "40 x 20 mm"
    assert talk.handle("/image").say == ("pictures: a.png, b.png",)
    assert talk.handle("/image clear").say == ("pictures: none",)
    talk.handle("/pc clear")
    talk.handle("/size clear")
    assert (talk.images, talk.points, talk.size) == ((), (), None)


def test_clear_takes_inputs_away_and_leaves_settings(talk: Dialogue) -> None:
    for line in ("/image a.png", "/pc c.ply", "/size 2in", "/candidates 4", "/clear"):
        talk.handle(line)
    assert (talk.images, talk.points, talk.size) == ((), (), None)
    assert talk.settings.candidates == 4


def test_settings_hold_from_then_on_and_are_checked(talk: Dialogue) -> None:
    assert talk.handle("/candidates 4").say == ("candidates: 4",)
    assert talk.handle("/temperature 0.5").say == ("temperature: 0.5",)
    talk.handle("/seed 7")
    settings = talk.handle("a plate").settings
    assert settings is not None
    assert (settings.candidates, settings.temperature, settings.seed) == (4, 0.5, 7)
    for line in ("/candidates 0", "/candidates 257", "/temperature -1", "/temperature nan", "/seed x", "/seed -1"):
        refused(talk, line, "E102")
    assert talk.settings == settings


def test_again_draws_with_the_next_seed_and_never_greedily(talk: Dialogue) -> None:
    refused(talk, "/again", "E703")
    talk.handle("a plate")
    turns = [talk.handle("/again") for _ in range(2)]
    assert [(turn.settings.seed, turn.settings.temperature) for turn in turns if turn.settings] == [(1, WARM), (2, WARM)]
    assert "would be the same" in turns[0].say[0]
    assert turns[0].request is not None
    assert turns[0].request.text == "a plate"
    assert talk.settings == InferSettings()
    talk.handle("/temperature 0.3")
    talk.handle("/seed 40")
    talk.handle("/image a.png")
    turn = talk.handle("/again")
    assert turn.settings is not None
    assert turn.request is not None
    assert (turn.settings.seed, turn.settings.temperature) == (40, 0.3)
    assert turn.request.images == (Path("a.png"),)
    talk.handle("another")
    again = talk.handle("/again").settings
    assert again is not None
    assert again.seed == 41


def test_go_needs_no_text(talk: Dialogue) -> None:
    refused(talk, "/go", "E703")
    talk.handle("/pc c.ply")
    turn = talk.handle("/go")
    assert turn.request is not None
    assert turn.request.text is None
    talk.handle("/clear")
    refused(talk, "/again", "E703")


@pytest.mark.parametrize("line", ["/show", "/record", "/save", "/save parts"])
def test_what_needs_a_part(talk: Dialogue, line: str) -> None:
    refused(talk, line, "E703")
    part: Any = SimpleNamespace()
    talk.answered(part)
    assert talk.handle(line).deed == line[1:].split()[0]


def test_save_never_writes_over_another_answer_unasked(talk: Dialogue, here: Path) -> None:
    part: Any = SimpleNamespace()
    talk.answered(part)
    assert talk.handle("/save").folder == Path("out")
    (here / "out").mkdir()
    assert talk.handle("/save").folder == Path("out")
    (here / "out" / "record.json").write_text("")
    (here / "out-2").write_text("")
    assert talk.handle("/save").folder == Path("out-3")
    assert talk.handle("/save out").folder == Path("out")
    assert talk.handle("/save 'my part'").folder == Path("my part")
    assert talk.handle("/save ~/x").folder == Path.home() / "x"
    refused(talk, "/save my part", "E106")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("/imag a.png", "E106", "did you mean /image"),
        ("/nothing-like-it", "E106", "there is no command"),
        ("/show it", "E106", "takes nothing"),
        ("/image c.png", "E201", "c.png is not there"),
        ("/image parts", "E201", "is a folder"),
        ("/pc a\0b", "E201", "not there"),
        ("/pc ~nobody-of-this-name/x", "E201", "not there"),
        ("/image " + "x" * 5000, "E201", "not there"),
        ("/image 'a.png", "E106", "quot"),
        ("/image a.png clear", "E201", "clear is not there"),
        ("/size huge", "E705", "huge"),
        ("/seed 1 2", "E106", "one number"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_has_changed(talk: Dialogue, line: str, code: str, says: str) -> None:
    talk.handle("/image b.png")
    assert says in refused(talk, line, code).message
    assert (talk.images, talk.points, talk.size, talk.settings) == ((Path("b.png"),), (), None, InferSettings())


def test_too_many_files(talk: Dialogue, here: Path) -> None:
    names = [f"{k}.png" for k in range(17)]
    for name in names:
        (here / name).write_bytes(b"")
    refused(talk, "/image " + " ".join(names), "E106")
    talk.handle("/image " + " ".join(names[:16]))
    assert len(talk.images) == 16


def test_a_session_may_begin_with_inputs(talk: Dialogue) -> None:
    talk.bring([Path("a.png")], [Path("c.ply")], "20mm")
    assert (talk.images, talk.points, talk.size) == ((Path("a.png"),), (Path("c.ply"),), "20mm")
    with pytest.raises(CadmllmError, match="not there"):
        talk.bring([], [Path("nope.ply")], None)


def test_every_command_is_in_the_help_and_every_alias_leads_to_one(talk: Dialogue) -> None:
    lines = talk.handle("/?").say
    assert [line.split()[0] for line in lines[1:]] == list(COMMANDS)
    assert set(ALIASES.values()) <= set(COMMANDS)
    assert talk.handle("/QUIT").deed == "quit"


def test_completion(here: Path) -> None:
    assert completions("/im", "/im") == ["/image "]
    assert completions("/c", "/c") == ["/candidates ", "/clear "]
    assert completions("/image ", "") == ["a.png ", "b.png ", "c.ply ", "my scan.ply ", "parts/"]
    assert completions("/pc pa", "pa") == ["parts/"]
    assert completions("/pc parts/", "parts/") == []
    assert completions("/pc nowhere/", "nowhere/") == []
    assert completions("/seed ", "") == []
    assert completions("a plate", "plate") == []


@given(st.one_of(st.text(max_size=60), st.tuples(st.sampled_from([*COMMANDS, *ALIASES]), st.text(max_size=40)).map(" ".join)))
def test_any_line_is_a_turn_or_an_error_of_ours(line: str) -> None:
    talk = Dialogue(InferSettings())
    talk.answered(SimpleNamespace())  # ty: ignore[invalid-argument-type]
    try:
        turn = talk.handle(line)
    except CadmllmError:
        return
    assert (turn.request is not None) == (turn.deed == "answer")
