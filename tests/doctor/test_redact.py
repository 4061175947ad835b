"""Nothing that should stay at home is in a page for an issue."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cadmllm.doctor import redact
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.redact import redacted

HOME = Path("/home/ada")


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuvwx",
        "0123456789abcdef0123456789abcdef01234567",
        "wandb_v1_abcdefghijklmnopqrst",
        "ghp_abcdefghijklmnopqrstuvwxyz012345",
        "sk-abcdefghijklmnopqrstuv",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_tokens(secret):
    assert secret not in redacted(f"the key is {secret}, so", Machine(environ={}), HOME)


def test_values_of_variables_that_are_named_like_secrets():
    machine = Machine(environ={"MY_API_KEY": "quite-unusual", "SSH_KEY_FILE": "/etc/key", "TOKENIZERS_PARALLELISM": "false"})
    text = redacted("quite-unusual in /etc/key, false", machine, HOME)
    assert text == "<secret> in /etc/key, false"


def test_homes_and_names(monkeypatch):
    monkeypatch.setattr(redact, "_user", lambda: "ada_l")
    monkeypatch.setattr(socket, "gethostname", lambda: "engine")
    machine = Machine(environ={})
    assert redacted("/home/ada/data", machine, HOME) == "~/data"
    assert redacted("/home/bob/data and /mnt/c/Users/Ada L/x", machine, HOME).startswith(
        "/home/<user>/data and /mnt/c/Users/<user>"
    )
    assert redacted("C:\\Users\\ada\\x", machine, HOME) == "C:\\Users\\<user>\\x"
    assert redacted("engine of ada_l, search engines", machine, HOME) == "<host> of <user>, search engines"
    assert redacted("https://me:pass@host/x", machine, HOME) == "https://<secret>@host/x"
    assert redacted("token=abc, password: def", machine, HOME) == "token=<secret> password: <secret>"


def test_what_is_harmless_stays(monkeypatch):
    monkeypatch.setattr(redact, "_user", lambda: "root")
    text = "torch 2.13.0, 24.0 GiB, /usr/lib/x, E821 at /data/set -> --set run.dir=/big"
    assert redacted(text, Machine(environ={}), HOME) == text
