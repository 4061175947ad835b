"""wandb: off, offline, online; nothing is contacted but a service of our own on this machine."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cadmllm.doctor import logging
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.logging import Login, check_wandb, configured, find_login, unreachable, wrong_key
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings

KEY = "k" * 40


class Service(http.server.BaseHTTPRequestHandler):
    """Refuses everything, which is an answer."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def situation(folder: Path, mode: str = "online", **environ: str) -> Situation:
    environ = {"HOME": str(folder), "WANDB_DIR": str(folder), **environ}
    settings = Settings(wandb={"mode": mode}, run={"dir": folder / "run"})
    return Situation(settings, machine=Machine(folder, environ), cache=Cache(folder / "doctor.json"))


def never(*_: object, **__: object) -> None:
    raise AssertionError("something was contacted or started")


@pytest.mark.parametrize(
    ("mode", "forced", "said"),
    [
        ("off", "", "wandb is off"),
        ("off", "online", "wandb is off"),
        ("online", "disabled", "switched off by WANDB_MODE"),
        ("offline", "", "offline: nothing is sent"),
        ("online", "offline", "offline (WANDB_MODE): nothing is sent"),
        ("online", "dryrun", "offline (WANDB_MODE)"),
    ],
)
def test_nothing_is_contacted_where_nothing_is_sent(tmp_path, monkeypatch, mode, forced, said):
    monkeypatch.setattr(logging, "run_probe", never)
    outcome = check_wandb(situation(tmp_path, mode, WANDB_MODE=forced))
    assert said in outcome.summary + outcome.skipped
    assert not outcome.findings


def test_without_a_login_nobody_could_watch(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "run_probe", never)
    outcome = check_wandb(situation(tmp_path, WANDB_BASE_URL="https://wandb.example.org/"))
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E841", Level.WARN)
    assert "logged offline, and nobody could watch it" in finding.message
    assert "wandb login --host https://wandb.example.org; or --set wandb.mode=offline" in finding.remedy
    assert [(fix.kind, fix.name, fix.value) for fix in outcome.fixes] == [("environment", "WANDB_MODE", "offline")]


def test_the_service_answers_be_it_with_a_refusal(tmp_path, service):
    outcome = check_wandb(situation(tmp_path, WANDB_BASE_URL=service, WANDB_API_KEY=KEY))
    assert outcome.level is Level.OK
    assert outcome.summary == f"online at {service}: login from WANDB_API_KEY, the service answers"


def test_a_service_that_does_not_answer(tmp_path):
    outcome = check_wandb(situation(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY))
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E842", Level.WARN)
    assert "refused" in finding.message
    assert f"wandb sync {tmp_path}/run/wandb/offline-run-*" in finding.remedy
    assert KEY not in finding.message + finding.remedy


def test_the_wait_ends(service):
    class Slow(Service):
        def do_GET(self) -> None:
            threading.Event().wait(5)

    server = http.server.HTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = unreachable(f"http://127.0.0.1:{server.server_address[1]}", {}, seconds=0.3)
    assert "timed out" in said or "no answer within 0.3 s" in said
    assert unreachable(service, {}, seconds=30) == ""


def test_a_proxy_of_the_environment_is_used(service):
    assert unreachable("http://wandb.invalid", {"http_proxy": service}, seconds=30) == ""


def test_logins_in_wandbs_order(tmp_path):
    url = "https://wandb.example.org"
    netrc = tmp_path / ".netrc"
    home = {"HOME": str(tmp_path)}
    own = {"base_url": url}
    assert find_login(home, url, own) is None
    assert find_login(home, url, own | {"api_key": KEY}) == Login("wandb's settings")
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert find_login(home, url, own) is None
    assert find_login(home, "https://api.forge.coreweave.com", {}) == Login(str(netrc))  # the public service by another name
    netrc.write_text(f"machine wandb.example.org login user password {KEY}\n")
    assert find_login(home, url, own) == Login(str(netrc))
    netrc.write_text("machine wandb.example.org login user password short\n")
    assert "5 characters" in str(find_login(home, url, own))
    netrc.write_text("machine\n")
    assert "cannot be read" in str(find_login(home, url, own))
    assert find_login(home | {"WANDB_API_KEY": KEY}, url, own) == Login("WANDB_API_KEY")
    both = home | {"WANDB_API_KEY": KEY, "WANDB_IDENTITY_TOKEN_FILE": str(netrc)}
    assert "which wandb refuses" in str(find_login(both, url, own))
    assert "there is no file" in str(find_login(home | {"WANDB_IDENTITY_TOKEN_FILE": "/absent"}, url, own))


@pytest.mark.parametrize(
    "key", [KEY, f"local-{KEY}", "wandb_v1_" + KEY, "abc.def.ghi", "", "short", "k" * 39, KEY + "!", f"local-{KEY}\n"]
)
def test_keys_are_judged_as_wandb_judges_them(key):
    from wandb.sdk.lib.wbauth.validation import check_api_key

    assert bool(wrong_key(key)) == bool(check_api_key(key))


def test_settings_files_of_wandb(tmp_path):
    for folder, url in ((tmp_path / ".config/wandb", "https://one"), (tmp_path / "wandb", "https://two")):
        folder.mkdir(parents=True)
        (folder / "settings").write_text(f"[default]\nbase_url = {url}\n")
    home = {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    assert configured(home) == {"base_url": "https://two"}
    assert configured(home | {"WANDB_BASE_URL": "https://three"}) == {"base_url": "https://three"}
    (tmp_path / "wandb/settings").write_text("no section\n")
    assert configured(home) == {"base_url": "https://one"}


def test_the_public_address_is_that_of_the_installed_version(tmp_path, monkeypatch):
    import wandb

    asked = situation(tmp_path, WANDB_BASE_URL="https://elsewhere")
    assert logging.public_url(asked) == wandb.Settings().base_url
    monkeypatch.setattr(logging, "run_probe", never)
    assert logging.public_url(asked) == wandb.Settings().base_url
