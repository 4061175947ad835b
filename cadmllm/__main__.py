"""`python -m cadmllm` and the `cadmllm` script."""

from __future__ import annotations

import sys

from cadmllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
