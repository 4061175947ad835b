"""`python -m cadmllm` and the `cadmllm` script."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Runs the command line; where it cannot be loaded, `doctor` still answers and every other command says E802."""
    # OpenMP threads that spin at every barrier make a step 15 times slower beside another process; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # a moment: the next loop usually comes within it
    argv = sys.argv[1:]
    from cadmllm.doctor import oldpython

    if oldpython.is_old():
        return oldpython.refuse(argv)
    if "doctor" in argv:
        from cadmllm.doctor import first

        if first.asked_for(argv) and not first.shell_works():
            return first.answer(argv)
    try:
        from cadmllm import cli
    except Exception as error:  # a package that is broken may raise anything while it is imported
        from cadmllm.doctor import first

        if not first.culprit(error):
            raise
        return first.answer(argv, error) if "doctor" in argv else first.refuse(argv, error)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
