"""`python -m cadmllm` and the `cadmllm` script."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Runs the command line; says what to install where not even Typer is there."""
    # OpenMP threads that spin at every barrier make a step 15 times slower beside another process; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # a moment: the next loop usually comes within it
    try:
        from cadmllm import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "cadmllm":
            raise
        print(f"error: E802 {error.name} is not installed", file=sys.stderr)
        print(f"hint: {sys.executable} -m pip install {error.name}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
