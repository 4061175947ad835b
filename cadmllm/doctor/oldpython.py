"""What an older Python is told, which cannot read the rest of cadmllm. It must be able to read this file itself: no newer syntax.

Standard library only.
"""

from __future__ import annotations

import json
import sys

OLDEST = (3, 11)
MESSAGE = "Python {} is older than {}, and cadmllm cannot be read by it ({})"
REMEDY = "make setup PYTHON=python{0} (first: sudo apt-get install python{0} python{0}-venv), then .venv/bin/cadmllm"


def is_old() -> bool:
    """Whether the running Python is older than cadmllm needs."""
    return tuple(sys.version_info[:2]) < OLDEST


def refuse(argv: list[str]) -> int:
    """Say E801, as `doctor` and every other command would, under `--json` as well; the exit code."""
    running, oldest = (".".join(str(part) for part in version) for version in (sys.version_info[:3], OLDEST))
    message, remedy = MESSAGE.format(running, oldest, sys.executable), REMEDY.format(oldest)
    error = {"code": "E801", "message": message, "remedy": remedy}
    if "--json" in argv:
        finding = dict(error, level="fail", check="python")
        report = {"schema": 1, "ready": False, "findings": [finding], "plan": {}}
        print(json.dumps(report if "doctor" in argv else {"error": error}))
    else:
        print("error: E801 " + message, file=sys.stderr)
        print("hint: " + remedy, file=sys.stderr)
        if "doctor" in argv:
            print("not ready: E801")
    return 1
