# SPDX-License-Identifier: GPL-3.0-or-later
"""A key's fingerprint is what gpg says it is, and what is no single public key is called by its name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _openpgp

from tests.unit.openpgp_keys import (
    ED25519,
    ED25519_FINGERPRINT,
    RSA,
    RSA_FINGERPRINT,
    V6,
    V6_FINGERPRINT,
    armour,
    binary,
)

BODY = binary(RSA)[3:272]  # of the primary key: two octets of length, as gpg writes it


def test_the_samples_hold_what_the_tests_say() -> None:
    assert binary(RSA)[:3] == b"\x99\x01\x0d"
    assert len(BODY) == 0x10D


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (RSA, RSA_FINGERPRINT),
        (ED25519, ED25519_FINGERPRINT),
        (RSA.replace("\n", "\r\n"), RSA_FINGERPRINT),
        ("Key of a repository:\n\n" + RSA.replace("\n\n", "\nVersion: GnuPG v2\nComment: x\n\n", 1), RSA_FINGERPRINT),
        ("\n".join(line + "  " for line in RSA.splitlines()), RSA_FINGERPRINT),
        ("\n".join(line for line in RSA.splitlines() if not line.startswith("=")), RSA_FINGERPRINT),
        (armour(V6), V6_FINGERPRINT),
    ],
    ids=["rsa", "ed25519", "crlf", "headers", "blanks", "no checksum", "version 6"],
)
def test_armoured(data: str, wanted: str) -> None:
    assert _openpgp.fingerprint(data.encode()) == wanted


@pytest.mark.parametrize(
    "head",
    [
        b"\x99\x01\x0d",  # old format, 1, 2 and 4 octets of length and none
        b"\x9a\x00\x00\x01\x0d",
        b"\x9b",
        b"\xc6\xc0\x4d",  # new format, 2 and 5 octets
        b"\xc6\xff\x00\x00\x01\x0d",
    ],
)
def test_every_way_to_write_a_length(head: bytes) -> None:
    assert _openpgp.fingerprint(head + BODY) == RSA_FINGERPRINT


@pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not installed")
@pytest.mark.parametrize("key", [RSA, ED25519])
def test_gpg_says_the_same(key: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["gpg", "--homedir", str(tmp_path), "--show-keys", "--with-colons"],
        input=key,
        capture_output=True,
        text=True,
        check=True,
    )
    first = next(line for line in done.stdout.splitlines() if line.startswith("fpr:"))
    assert _openpgp.fingerprint(key.encode()) == first.split(":")[9]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no armoured key"),
        (b"a text", "no armoured key"),
        (RSA[:400].encode(), "an armoured key without its end"),
        (armour(b"", "PRIVATE KEY BLOCK").encode(), "a private key"),
        (armour(b"", "SIGNATURE").encode(), "a PGP signature, no key"),
        (armour(b"\xc5\x01\x04").encode(), "a private key"),
        (armour(binary(RSA)[272:]).encode(), "without a key"),
        (armour(b"").encode(), "without a key"),
        ((RSA + ED25519).encode(), "2 keys"),
        (binary(RSA) + binary(ED25519), "2 keys"),
        (RSA.replace("mQEN", "mQE-").encode(), "an armoured key with characters that are no base64"),
        (RSA.replace("Slipway", "Slopway").replace("mQENBG", "mQENBH").encode(), "a damaged key"),
        (binary(RSA)[:100], "a key that is cut off"),
        (b"\x99", "a key that is cut off"),
        (b"\xc6", "a key that is cut off"),
        (armour(b"text").encode(), "no OpenPGP data"),
        (b"\xc6\xe1ab", "a key in parts of unknown length"),
        (b"\xc6\x01\x03", "a key of version 3, not 4 or 6"),
        (b"\xc6\x00", "a key of version 0, not 4 or 6"),
    ],
)
def test_what_is_no_single_public_key(data: bytes, told: str) -> None:
    with pytest.raises(_openpgp.KeyTextError, match=told):
        _openpgp.fingerprint(data)
