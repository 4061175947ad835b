"""Runs `cadmllm` commands as real processes that start at once: a server that has imported everything forks them.

Reads a JSON line for each: {"argv": [...], "log": FILE, "marks": FOLDER, "slow": {"fsync": seconds, ...}}, and
answers {"pid": N}; {"wait": N} answers {"code": exit code, negative for a signal}. What is slowed down here, in the test
script alone, gives signals time to arrive inside it; a file in `marks` says that it has been entered.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def slowed(function, seconds: float, mark: Path):
    """The function, entered with a mark and a pause."""

    def call(*arguments, **options):
        mark.touch()
        time.sleep(seconds)
        return function(*arguments, **options)

    return call


def slowed_in(folder: str, fsync, seconds: float):
    """`os.fsync`, slow for what lies in a folder of that name."""

    def call(handle: int) -> None:
        if f"/{folder}" in os.readlink(f"/proc/self/fd/{handle}"):
            time.sleep(seconds)
        fsync(handle)

    return call


def child(order: dict) -> int:
    """One command line, with its output in a file."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from cadmllm.cli import main
    from cadmllm.train import squeeze, validate

    marks, slow = Path(order["marks"]), order["slow"]
    if "fsync" in slow:
        os.fsync = slowed(os.fsync, slow["fsync"], marks / "fsync")
    if "final" in slow:
        os.fsync = slowed_in(".final", os.fsync, slow["final"])
    if "step" in slow:
        squeeze.train_step = slowed(squeeze.train_step, slow["step"], marks / "step")
    if "validation" in slow:
        validate.HeldOut.loss = slowed(validate.HeldOut.loss, slow["validation"], marks / "validation")
    return main(order["argv"])


def serve() -> None:
    """Fork a process for each order; nothing is computed here, so that no thread is lost in a fork."""
    import peft  # noqa: F401
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model  # noqa: F401

    import cadmllm.cli
    import cadmllm.train.loop  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])}
        else:
            pid = os.fork()
            if pid == 0:
                os.setsid()  # the terminal's signals are the test's to send
                os._exit(child(order))
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
