"""The proxy's accounts."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab import credentials
from tests.lab.credentials import Account
from tests.lab.errors import LabError
from tests.lab.paths import FILES

PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=20)


def helper() -> ModuleType:
    """Squid's helper as a module; its loop ends at once, for want of input."""
    loader = importlib.machinery.SourceFileLoader("squid_accounts", str(FILES / "gateway" / "squid-accounts"))
    spec = importlib.util.spec_from_loader("squid_accounts", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    exec(loader.get_data(loader.path).decode().replace("\nmain()\n", "\n"), module.__dict__)
    return module


HELPER = helper()


def test_the_default_account_is_hostile() -> None:
    account = credentials.from_environment({})
    assert account == Account("corp\\svc", "p@ss%20#:/w0rd!")
    assert "w0rd" not in repr(account)


def test_the_environment_replaces_it() -> None:
    chosen = credentials.from_environment({"LAB_PROXY_USER": "{{ a b }}", "LAB_PROXY_PASSWORD": "ü;'\""})
    assert chosen == Account("{{ a b }}", "ü;'\"")


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"LAB_PROXY_USER": "a:b"}, "LAB_PROXY_USER holds a colon"), ({"LAB_PROXY_PASSWORD": "a\nb"}, "control")],
)
def test_what_basic_authentication_cannot_carry_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        credentials.from_environment(environment)


@pytest.mark.parametrize(
    ("environment", "remembered", "user"),
    [
        ({}, None, credentials.DEFAULT_USER),
        ({}, Account("old", "p"), "old"),
        ({"LAB_PROXY_USER": "new"}, Account("old", "p"), "new"),
        ({"LAB_PROXY_PASSWORD": "new"}, Account("old", "p"), credentials.DEFAULT_USER),
    ],
)
def test_the_environment_goes_before_what_the_lab_remembers(
    environment: dict[str, str], remembered: Account | None, user: str
) -> None:
    assert credentials.chosen(environment, remembered).user == user


def test_setting_the_same_account_again_changes_nothing() -> None:
    text = credentials.with_account("", Account("u", "p"))
    assert credentials.with_account(text, Account("u", "p")) == text
    assert credentials.with_account(text, Account("u", "q")) != text


def test_an_owner_has_one_account_and_loses_it() -> None:
    text = credentials.with_account("", Account("u", "p"))
    text = credentials.with_account(text, Account("v", "p"), "test")
    assert [entry["user"] for entry in json.loads(text).values()] == ["u", "v"]
    assert list(json.loads(credentials.without_account(text, "test"))) == [credentials.MAIN]


@given(user=PRINTABLE.filter(lambda name: ":" not in name), password=PRINTABLE)
def test_squids_helper_accepts_what_was_set_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, user: str, password: str
) -> None:
    file: Path = tmp_path_factory.mktemp("accounts") / "accounts.json"
    file.write_text(credentials.with_account("", Account(user, password)), encoding="utf-8")
    assert HELPER.accepted(file, user.encode(), password.encode())
    assert not HELPER.accepted(file, user.encode(), password.encode() + b"x")
    assert not HELPER.accepted(file, user.encode() + b"x", password.encode())
