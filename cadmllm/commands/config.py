"""`cadmllm config`: the resolved settings, their origins, every key, the presets and the guide's flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def register(app: typer.Typer) -> None:
    """Adds `config` with its commands."""
    group = typer.Typer(help="Show the resolved settings, every key, the presets, the guide's flags.")
    group.command("show")(show)
    group.command("keys")(keys)
    group.command("flags")(flags)
    group.command("presets")(presets)
    app.add_typer(group, name="config")


def show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    flags: Annotated[bool, typer.Option("--flags", help="Say which of the guide's flags sets each value.")] = False,
) -> None:
    """Print the settings that all layers together say: defaults, preset, cadmllm.toml, CADMLLM_* variables, command line."""
    from cadmllm.flags import FLAGS
    from cadmllm.keys import flat

    shared: Shared = ctx.obj
    resolved = shared.resolve()
    notes: dict[str, list[str]] = {key: [] for key in resolved.origins}
    if origin:
        for key, where in resolved.origins.items():
            notes[key].append(str(where))
    if flags:
        for flag in FLAGS:
            if flag.key:
                notes[flag.key].append(flag.spelling)
    for line in _as_toml_lines(flat(resolved.settings), notes):
        shared.console.print(line)
    document: dict[str, object] = {
        "preset": resolved.preset,
        "settings": resolved.settings.model_dump(mode="json", by_alias=True),
    }
    if origin:
        document["origins"] = resolved.origins
    shared.console.json(document)


def _as_toml_lines(values: dict[str, object], notes: dict[str, list[str]]) -> list[str]:
    """A settings file that says the same, with the notes as comments. Keys without a group come first, as TOML demands."""
    from cadmllm.keys import as_toml

    entries: list[tuple[str, str]] = []
    previous = ""
    for key, value in sorted(values.items(), key=lambda item: "." in item[0]):
        group, _, name = key.rpartition(".")
        if group != previous:
            entries += [("", ""), (f"[{group}]", "")]
            previous = group
        text = f"# {name} is not set" if value is None else f"{name} = {as_toml(value)}"
        entries.append((text, ", ".join(notes[key])))
    width = min(56, max(len(text) for text, _ in entries))
    return [f"{text.ljust(width)}  # {note}" if note else text for text, note in entries]


def keys(ctx: typer.Context) -> None:
    """List every setting with its type, default and description."""
    from cadmllm.keys import known_keys

    shared: Shared = ctx.obj
    found = known_keys().values()
    rows = [(key.name, key.default_text, f"{key.description} ({key.type_text})") for key in found]
    shared.console.table(rows, ("setting", "default", "what it does"))
    entries = [{"key": k.name, "type": k.type_text, "default": k.default, "description": k.description} for k in found]
    shared.console.json({"keys": entries})


def flags(ctx: typer.Context) -> None:
    """List the training guide's flags and the settings they stand for. Dashes and underscores are the same."""
    from cadmllm.flags import FLAGS
    from cadmllm.keys import known_keys

    shared: Shared = ctx.obj
    known = known_keys()
    rows = []
    for flag in FLAGS:
        help_text = flag.help or known[flag.key].description
        only = f" ({', '.join(flag.commands)} only)" if flag.commands else ""
        value = " [true|false]" if flag.switch else " VALUE"
        rows.append((flag.spelling + value, flag.key or "(the stages to train)", help_text + only))
    shared.console.table(rows, ("flag", "setting", "what it does"))
    shared.console.json({"flags": [{"flag": flag, "setting": key, "help": text} for flag, key, text in rows]})


def presets(ctx: typer.Context) -> None:
    """List the presets; the first comment line of each says what it is for."""
    from cadmllm.places import bundled
    from cadmllm.resolve import preset_names

    shared: Shared = ctx.obj
    rows = []
    for name in preset_names():
        first = (bundled("presets") / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
        rows.append((name, first.lstrip("# ")))
    shared.console.table(rows, ("preset", "for"))
    shared.console.json({"presets": [{"name": name, "for": text} for name, text in rows]})
