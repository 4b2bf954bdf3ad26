"""The proxy's account: hostile by default, replaced by LAB_PROXY_USER and LAB_PROXY_PASSWORD."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.lab.errors import LabError

DEFAULT_USER = "corp\\svc"
DEFAULT_PASSWORD = "p@ss%20#:/w0rd!"

MAIN = "main"


@dataclass(frozen=True)
class Account:
    """A user of the proxy, raw as a person would type it."""

    user: str
    password: str = field(repr=False)


def from_environment(environment: Mapping[str, str] = os.environ) -> Account:
    """The account that the environment chooses.

    Raises:
        LabError: It can't be used in HTTP basic authentication.
    """
    account = Account(
        environment.get("LAB_PROXY_USER") or DEFAULT_USER, environment.get("LAB_PROXY_PASSWORD") or DEFAULT_PASSWORD
    )
    if ":" in account.user:
        raise LabError("LAB_PROXY_USER holds a colon: it needs none, HTTP basic authentication ends the name there.")
    for name, value in (("LAB_PROXY_USER", account.user), ("LAB_PROXY_PASSWORD", account.password)):
        if not value.isprintable():
            raise LabError(f"{name} holds a control character: it needs printable ones only.")
    return account


def chosen(environment: Mapping[str, str], remembered: Account | None) -> Account:
    """The environment's account where it names one, else the one that the lab has, else the default.

    Raises:
        LabError: It can't be used in HTTP basic authentication.
    """
    named = environment.get("LAB_PROXY_USER") or environment.get("LAB_PROXY_PASSWORD")
    return remembered if remembered and not named else from_environment(environment)


def with_account(text: str, account: Account, owner: str = MAIN) -> str:
    """Content of the proxy's account file with an account set.

    Args:
        text: The file's present content, or nothing.
        account: Who may use the proxy.
        owner: Whose account it is; an owner has one.

    Returns:
        The same text when the account is in it already.
    """
    entries = json.loads(text) if text else {}
    if owner in entries and matches(entries[owner], account):
        return text
    salt = secrets.token_hex(8)
    entries[owner] = {"user": account.user, "salt": salt, "hash": hashed(account.password, salt)}
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def without_account(text: str, owner: str) -> str:
    """Content of the proxy's account file with an owner's account gone."""
    entries = json.loads(text) if text else {}
    entries.pop(owner, None)
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def matches(entry: Mapping[str, str], account: Account) -> bool:
    """Whether an entry of the account file is this account."""
    return entry["user"] == account.user and entry["hash"] == hashed(account.password, entry["salt"])


def hashed(password: str, salt: str) -> str:
    """What squid's helper compares; the same computation stands in files/gateway/squid-accounts."""
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=256, r=8, p=1).hex()
