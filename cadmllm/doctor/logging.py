"""wandb, in one line. Standard library only."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation


def check_wandb(situation: Situation) -> Outcome:
    """wandb knows who is logging, before it asks in the middle of a start that nobody watches."""
    mode = situation.needed.wandb.mode
    if mode != "online":
        return Outcome(skipped=f"wandb is {mode}")
    if os.environ.get("WANDB_API_KEY"):
        return Outcome("WANDB_API_KEY is set")
    host = (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rpartition("/")[2]
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        if host in netrc.netrc(str(file)).hosts:
            return Outcome(f"logged in to {host} ({file})")
        message = f"wandb is to be used online, and {file} has no login for {host}"
    except (OSError, netrc.NetrcParseError) as error:
        message = f"wandb is to be used online, and there is no login for {host} ({error})"
    remedy = f"{Path(sys.executable).with_name('wandb')} login; or --set wandb.mode=offline"
    return Outcome(findings=(Finding("E841", Level.FAIL, "wandb", message, remedy),))


CHECKS = (Check("wandb", "wandb is logged in where it is to be used online", ("E841",), check_wandb, group="logging"),)
