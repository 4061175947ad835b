"""The proofs of `--deep`: this run's own code, on this machine and data, before the run. Each is made in `doctor/proving`."""

from __future__ import annotations

from collections.abc import Callable

from cadmllm.doctor.check import Check, Outcome, Situation
from cadmllm.doctor.prover import prove

NEEDS = ("torch", "transformers", "peft", "safetensors", "numpy", "pydantic")


def _made(name: str) -> Callable[[Situation], Outcome]:
    def run(situation: Situation) -> Outcome:
        return prove(situation, name)

    return run


def _check(name: str, what: str, *codes: str) -> Check:
    return Check(name, what, tuple(dict.fromkeys((*codes, "E867"))), _made(name), needs=NEEDS, group="proofs", deep=True)


CHECKS = (
    _check("steps", "two real steps at the worst micro-batch fit, and take the memory that was planned", "E861", "E813", "E609"),
    _check("gradients", "what should learn has gradients and moves, what is frozen does not", "E862"),
    _check("labels", "supervised tokens are the targets' alone, placeholders are as many as features", "E863", "E406"),
    _check("reload", "a save, loaded into a fresh model, goes on to the same numbers", "E864", "E607"),
    _check("prefill", "training and generation compute the same scores", "E865"),
    _check("loader", "samples are read faster than they are trained on", "E866"),
    _check("time", "how long the run takes, from measured steps", "E867"),
)
