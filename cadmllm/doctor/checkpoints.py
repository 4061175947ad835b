"""Base model and encoders, in the order in which they are looked at."""

from __future__ import annotations

from cadmllm.doctor import basemodel, imageencoder, michelangelo
from cadmllm.doctor.check import Check

CHECKS: tuple[Check, ...] = (*basemodel.CHECKS, *michelangelo.CHECKS, *imageencoder.CHECKS)
