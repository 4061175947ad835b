"""A picture of what a command prints at a terminal, as SVG, for the README.

    python benchmarks/terminal.py --out docs/img/doctor.svg --width 120 --title "cadmllm doctor --preset tiny" -- \
        cadmllm doctor --preset tiny

The command runs in a pseudo terminal of that width, so its colours are on. The checkout is called ~/cadmllm in the picture, the
home folder ~; `--replace OLD=NEW` renames more. Lines that are too long break between words. The same output gives the same
bytes; no font comes from the network. Exit code: 0 whatever the command's own is (it is said), 2 when it cannot be started.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import html
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ROWS = 50  # of the pseudo terminal
# whatever moves the cursor or erases: a progress bar, which a picture of lines cannot show
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]|\r(?![\r\n])|\x1b[78]")
FORMAT = """<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">
<title>TITLE</title>
<style>
svg {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }}
.{unique_id}-matrix {{ font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; }}
{styles}
</style>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def capture(command: Sequence[str], width: int, *, errors: bool = True) -> tuple[str, int]:
    """Runs a command at a pseudo terminal.

    Args:
        command: the program and its arguments.
        width: columns of the terminal.
        errors: standard error is in the picture, too; otherwise it is this process's own.

    Returns:
        What it printed, escape sequences included, and its exit code.

    Raises:
        OSError: the command cannot be started.
    """
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, width, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": str(ROWS)}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, stderr=its if errors else None, env=environment)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(its)
    with process:
        text = _read_all(ours).decode("utf-8", "replace")
    return text.replace("\r\n", "\n"), process.returncode


def _read_all(handle: int) -> bytes:
    """Everything until the last process has closed its side of the terminal, which Linux says as EIO."""
    found = bytearray()
    with open(handle, "rb", buffering=0) as stream:
        while True:
            try:
                piece = stream.read(65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return bytes(found)
            if not piece:
                return bytes(found)
            found += piece


def shortened(text: str, names: Mapping[str, str]) -> str:
    """`text` with paths by other names, the longest first; `/home/me` is not found in `/home/me2`."""
    for old in sorted(names, key=len, reverse=True):
        text = re.sub(re.escape(old) + r"(?![\w.-])", lambda _, new=names[old]: new, text)
    return text


def picture(text: str, width: int, title: str) -> str:
    """The SVG of a terminal's output.

    Args:
        text: with colours as escape sequences.
        width: columns of the picture.
        title: of its window.

    Raises:
        ValueError: the text moves the cursor.
    """
    from rich.console import Console
    from rich.text import Text

    if MOVES.search(text):
        raise ValueError("the output moves the cursor (a progress bar?): leave standard error out with --without-errors")
    console = Console(
        record=True, width=width, file=io.StringIO(), color_system="truecolor", force_terminal=True, highlight=False
    )
    for line in text.rstrip("\n").split("\n"):
        console.print(Text.from_ansi(line), overflow="fold", no_wrap=False)
    named = html.escape(title).replace("{", "{{").replace("}", "}}")
    svg = console.export_svg(title=title, code_format=FORMAT.replace("TITLE", named))
    svg = re.sub(r' clip-path="url\(#[^"]*\)"', "", svg)  # nothing is wider than the terminal: every line was broken
    svg = re.sub(r"<text [^>]*>\s*</text>", "", svg)  # line ends, which rich draws as text
    return re.sub(r"[ \t]+$", "", svg.replace("&#160;", "\u00a0"), flags=re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the SVG to write")
    parser.add_argument("--width", type=int, default=120, help="columns")
    parser.add_argument("--title", help="of the window; default: the command")
    parser.add_argument("--without-errors", action="store_true", help="leave standard error out: notes and progress bars")
    parser.add_argument(
        "--replace", action="append", default=[], metavar="OLD=NEW", help="call a path otherwise; again and again"
    )
    parser.add_argument("command", nargs="+", help="behind --: the program and its arguments")
    args = parser.parse_args(arguments)
    if wrong := [pair for pair in args.replace if not pair.partition("=")[0]]:
        parser.error(f"--replace {wrong[0]}: write OLD=NEW")
    # `cadmllm` is the one beside this Python, unless it is a path already
    program = shutil.which(args.command[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        parser.error(f"there is no program {args.command[0]}")
    text, code = capture([program, *args.command[1:]], args.width, errors=not args.without_errors)
    names = {str(Path.home()): "~", str(CHECKOUT): "~/cadmllm"} | dict(pair.split("=", 1) for pair in args.replace)
    try:
        svg = picture(shortened(text, names), args.width, args.title or shlex.join(args.command))
    except ValueError as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(svg, encoding="utf-8")
    print(f"wrote {args.out} ({len(svg.encode()) / 1000:.1f} kB); the command ended with {code}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
