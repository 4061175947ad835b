"""wandb, in one line: off, offline, or online with a login and a service that answers. Standard library only.

Nothing is contacted unless wandb is to be used online. A run that cannot be logged online is logged offline
(`train/telemetry.py`): it does not stop, but nobody watches it.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import netrc
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.probe import run_probe
from cadmllm.errors import CadmllmError

UPSTREAM = "api.wandb.ai"  # logins for it count for the public service, whatever address that has
PATIENCE = 1.5  # s for the service to answer
SHORTEST = 40  # characters of a key's secret part
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")  # a signed token in place of a key
_DEFAULT = """
import wandb
say(url=wandb.Settings().base_url)
"""
_ASK = """
import urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).close()
    say(answered=True)
except urllib.error.HTTPError as error:
    say(answered=True, status=error.code)
except urllib.error.URLError as error:
    say(answered=False, reason=str(error.reason))
except OSError as error:
    say(answered=False, reason=str(error))
"""


@dataclass(frozen=True, slots=True)
class Login:
    """Where a key comes from, in words, and what is wrong with it ('' for nothing). The key itself is not kept."""

    source: str
    wrong: str = ""


def check_wandb(situation: Situation) -> Outcome:
    """Who is logging and whether the service answers, before a run starts that somebody means to watch."""
    settings, environ = situation.needed, situation.machine.environ
    mode, forced = settings.wandb.mode, environ.get("WANDB_MODE", "").lower()
    if mode == "off":
        return Outcome(skipped="wandb is off")
    if forced == "disabled":
        return Outcome(skipped="wandb is switched off by WANDB_MODE=disabled")
    folder = settings.run.dir / "wandb"
    sync = f"wandb sync {folder}/offline-run-*"
    if mode == "offline" or forced in ("offline", "dryrun"):
        why = " (WANDB_MODE)" if mode == "online" else ""
        return Outcome(f"offline{why}: nothing is sent; later: {sync}")
    own = configured(environ)
    url = (own.get("base_url") or public_url(situation)).rstrip("/")
    login = find_login(environ, url, own)
    command = Path(sys.executable).with_name("wandb")
    offline = Fix("environment", "WANDB_MODE", "offline", "wandb keeps its log here; sync it later")
    if login is None or login.wrong:
        what = (
            f"there is no login for {url}" if login is None else f"the key for {url} ({login.source}) is unusable: {login.wrong}"
        )
        message = f"wandb is to be used online, and {what}: the run would go on, logged offline, and nobody could watch it"
        remedy = (
            f"{command} login{f' --host {url}' if own.get('base_url') else ''}; or --set wandb.mode=offline, and later: {sync}"
        )
        return Outcome(findings=(Finding("E841", Level.WARN, "wandb", message, remedy),), fixes=(offline,))
    trouble = unreachable(url, environ)
    if trouble:
        message = f"{url} does not answer ({trouble}): the run would go on, logged offline in {folder}"
        remedy = f"look at the network or proxy: curl -I {url}; or --set wandb.mode=offline, and later: {sync}"
        return Outcome(findings=(Finding("E842", Level.WARN, "wandb", message, remedy),), fixes=(offline,))
    return Outcome(f"online at {url}: login from {login.source}, the service answers")


def configured(environ: Mapping[str, str]) -> dict[str, str]:
    """`base_url` and `api_key` as WANDB_BASE_URL and wandb's own settings files have them; the folder's own goes first."""
    config = Path(environ.get("WANDB_CONFIG_DIR") or _home(environ) / ".config" / "wandb")
    found: dict[str, str] = {}
    for file in (config / "settings", Path(environ.get("WANDB_DIR") or ".") / "wandb" / "settings"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            continue
        found |= {name: value for name in ("base_url", "api_key") if (value := parser.get("default", name, fallback=""))}
    return found | ({"base_url": environ["WANDB_BASE_URL"]} if environ.get("WANDB_BASE_URL") else {})


def public_url(situation: Situation) -> str:
    """The address of the public service, which differs between versions of wandb: asked of the package once a version."""
    try:
        version = importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError as error:
        raise CadmllmError("E802", "wandb is not installed", "make setup; or --set wandb.mode=off") from error
    known = situation.cache.get("wandb address", version)
    if known is None:
        clean = {name: value for name, value in situation.machine.environ.items() if not name.startswith("WANDB_")}
        probe = run_probe(_DEFAULT, seconds=60.0, environ=clean)
        if not probe.lines:
            raise CadmllmError("E802", f"wandb cannot be imported: {probe.stderr or probe.end}", "cadmllm doctor --only packages")
        known = probe.lines[0]["url"]
        situation.cache.put("wandb address", version, answer=known)
    return known


def find_login(environ: Mapping[str, str], url: str, own: Mapping[str, str]) -> Login | None:
    """The login that wandb would find for a service, in its order: variables, netrc, its settings files; None without any.

    Args:
        environ: of the run.
        url: of the service.
        own: `configured(environ)`.
    """
    token, key = environ.get("WANDB_IDENTITY_TOKEN_FILE"), environ.get("WANDB_API_KEY")
    if token:
        wrong = "" if os.path.isfile(token) else f"there is no file {token}"
        return Login("WANDB_IDENTITY_TOKEN_FILE", "WANDB_API_KEY is set, too, which wandb refuses" if key else wrong)
    if key:
        return Login("WANDB_API_KEY", wrong_key(key))
    home = _home(environ)
    named = environ.get("NETRC")
    choices = [Path(named).expanduser()] if named else [home / ".netrc", home / "_netrc"]
    file = next((path for path in choices if path.exists()), choices[0])
    entry = None
    try:
        logins = netrc.netrc(str(file))
        entry = logins.authenticators(_host(url)) or (None if own.get("base_url") else logins.authenticators(UPSTREAM))
    except FileNotFoundError:
        pass
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        return Login(str(file), f"the file cannot be read ({error})")
    if entry is not None:
        return Login(str(file), wrong_key(entry[2] or ""))
    return Login("wandb's settings", wrong_key(own["api_key"])) if "api_key" in own else None


def wrong_key(key: str) -> str:
    """What is wrong with a key's form, as wandb judges it; '' for nothing."""
    if not key:
        return "it is empty"
    if _TOKEN.fullmatch(key):
        return ""
    secret = key.partition("-")[2] if "-" in key else key
    if not re.fullmatch(r"[\w-]+", secret):
        return "it holds other characters than letters, digits and underscores"
    return f"it has {len(secret)} characters, and keys have {SHORTEST} or more" if len(secret) < SHORTEST else ""


def unreachable(url: str, environ: Mapping[str, str], seconds: float = PATIENCE) -> str:
    """Why a service cannot be reached, through the proxies of the environment; '' where it answers, be it with a refusal.

    In a process of its own, as nothing else ends a name look-up that hangs.
    """
    probe = run_probe(_ASK, url, str(seconds), seconds=seconds, environ=environ)
    for line in probe.lines:
        return "" if line["answered"] else line["reason"]
    return probe.end if "no answer" not in probe.end else f"no answer within {seconds} s"


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


CHECKS = (
    Check(
        "wandb",
        "wandb is off, offline, or online with a login and a service that answers within 1.5 s",
        ("E841", "E842"),
        check_wandb,
        needs=("wandb",),
        group="logging",
        cached_by="the version of wandb (the address of its service)",
    ),
)
