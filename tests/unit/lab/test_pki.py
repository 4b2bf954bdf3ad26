"""The authority for the names that `internet` plays."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import pki


@pytest.fixture
def leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pki.Files:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return pki.Files(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_a_certificate_is_made_once_and_signed_by_the_authority(leaf: pki.Files) -> None:
    assert pki.ensure(("a.example", "b.example"), leaf)
    assert not pki.ensure(("a.example", "b.example"), leaf)
    certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(pki.ca_files().certificate.read_bytes()))
    assert pki.ca_files().key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("reason", ["names", "authority", "age"])
def test_it_is_made_anew_when_it_no_longer_fits(leaf: pki.Files, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    pki.ensure(("a.example",), leaf)
    names: tuple[str, ...] = ("a.example",)
    if reason == "names":
        names = ("a.example", "c.example")
    elif reason == "authority":
        pki.ca_files().key.unlink()
    else:
        monkeypatch.setattr(pki, "RENEW_DAYS", pki.LEAF_DAYS + 1)
    assert pki.ensure(names, leaf)
