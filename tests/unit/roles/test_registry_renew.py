# SPDX-License-Identifier: GPL-3.0-or-later
"""The renewal of the registry's certificate: real openssl, a real TLS server that reloads, a fake dockerd."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import ipaddress
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry/files/registry_renew.py"
HOST, NAMES = "registry.corp.lab", ["registry.corp.lab", "registry", "node1", "10.0.0.5", "FD00::5"]
DAY = datetime.timedelta(days=1)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_renew", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_renew"] = module
    spec.loader.exec_module(module)
    return module


renewal: Any = _load()


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    by: tuple[str, ec.EllipticCurvePrivateKey] | None = None,
    days: float = 900,
    permitted: list[str] | None = None,
) -> bytes:
    """Return an authority as the role makes it; with permitted, an issuer that is bound to these names."""
    signer, signing = by or (name, key)
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, signer))
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(True, 0 if by else 1), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if permitted is not None:
        subtrees: list[x509.GeneralName] = []
        for entry in permitted:
            with contextlib.suppress(ValueError):
                subtrees.append(x509.IPAddress(ipaddress.ip_network(entry)))
                continue
            subtrees.append(x509.DNSName(entry))
        builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Nginx:
    """Stands for nginx and for dockerd: serves what it has read, and reads again when it is told to."""

    def __init__(self, config: Any) -> None:
        self.config, self.running, self.deaf, self.reloads = config, True, False, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.socket = socket.create_server(("127.0.0.1", config.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self.socket.accept()
                with contextlib.suppress(OSError), self.context.wrap_socket(raw, server_side=True) as connection:
                    connection.recv(1)

    def runs(self, _name: str) -> bool:
        return self.running

    def reload(self, _name: str) -> None:
        self.reloads += 1
        if not self.deaf:
            self.context.load_cert_chain(self.config.certificate, self.config.key)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    root, issuer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    bound = [*NAMES[:3], "10.0.0.5/32", "fd00::5/128"]
    (tmp_path / "root.key").write_bytes(pem(root))
    (tmp_path / "root.pem").write_bytes(authority("root", root))
    (tmp_path / "issuer.pem").write_bytes(authority("issuer", issuer, by=("root", root), days=800, permitted=bound))
    (tmp_path / "issuer.key").write_bytes(pem(issuer))
    (tmp_path / "server.key").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return renewal.Config(
        host=HOST, port=port, names=NAMES, days=365, before=30,
        root=str(tmp_path / "root.pem"), issuer=str(tmp_path / "issuer.pem"), issuer_key=str(tmp_path / "issuer.key"),
        key=str(tmp_path / "server.key"), certificate=str(tmp_path / "certificate.pem"),
        state=str(tmp_path / "state.json"), lock=str(tmp_path / "lock"), proxy="proxy",
    )  # fmt: skip


@pytest.fixture
def nginx(config: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    monkeypatch.setattr(renewal, "PATIENCE", 1.0)
    made = Nginx(config)
    yield made
    made.socket.close()


def look(config: Any, nginx: Nginx, **changes: Any) -> list[str]:
    force = changes.pop("force", False)
    return list(renewal.look(renewal.dataclasses.replace(config, **changes), nginx, force=force))


def days_left(config: Any) -> float:
    return float((renewal.ends(config.certificate) - time.time()) / 86400)


def state(config: Any) -> Any:
    return json.loads(Path(config.state).read_text(encoding="utf-8"))


def test_the_first_one_is_made_and_good(config: Any, nginx: Nginx) -> None:
    (line,) = look(config, nginx)
    assert line == "<5>renewed the certificate (there is none): it lasts 365 days"
    assert renewal.problem(config, config.certificate) == ""
    assert os.stat(config.certificate).st_mode & 0o777 == 0o644
    chain = x509.load_pem_x509_certificates(Path(config.certificate).read_bytes())
    assert [one.issuer.rfc4514_string() for one in chain] == ["CN=issuer", "CN=root"]
    assert renewal.is_served(config)
    assert state(config)["ok"] is True
    assert state(config)["issuer_not_after"] - state(config)["not_after"] > 400 * 86400


def test_a_client_with_nothing_but_the_root_accepts_it(config: Any, nginx: Nginx) -> None:
    look(config, nginx)
    trust = ssl.create_default_context(cafile=config.root)
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in NAMES:
        with (
            socket.create_connection(("127.0.0.1", config.port), timeout=10) as raw,
            trust.wrap_socket(raw, server_hostname=name) as connection,
        ):
            assert connection.version()


def test_what_is_not_due_is_left_alone(config: Any, nginx: Nginx) -> None:
    look(config, nginx)
    before = Path(config.certificate).read_bytes()
    reloads = nginx.reloads
    assert look(config, nginx) == []
    assert (Path(config.certificate).read_bytes(), nginx.reloads) == (before, reloads)
    assert look(config, nginx, force=True)[0].startswith("<5>renewed the certificate (asked for)")


def test_one_that_ends_soon_is_renewed(config: Any, nginx: Nginx) -> None:
    look(config, nginx, days=1)
    assert days_left(config) < 1.1
    assert look(config, nginx) == ["<5>renewed the certificate (it ends in 1 days): it lasts 365 days"]
    assert days_left(config) > 364


def test_it_lasts_no_longer_than_the_issuer_and_is_not_made_again_and_again(config: Any, nginx: Nginx) -> None:
    root = serialization.load_pem_private_key((Path(config.root).parent / "root.key").read_bytes(), None)
    issuer = serialization.load_pem_private_key(Path(config.issuer_key).read_bytes(), None)
    assert isinstance(root, ec.EllipticCurvePrivateKey)
    assert isinstance(issuer, ec.EllipticCurvePrivateKey)
    Path(config.issuer).write_bytes(authority("issuer", issuer, by=("root", root), days=20.5, permitted=NAMES[:3]))
    names = NAMES[:3]
    look(config, nginx, names=names)
    assert 19 < days_left(config) < 20.1
    assert look(config, nginx, names=names) == []
    Path(config.issuer).write_bytes(authority("issuer", issuer, by=("root", root), days=0.5, permitted=NAMES[:3]))
    with pytest.raises(renewal.RenewalError, match=r"run site\.yml"):
        look(config, nginx, names=names)


@pytest.mark.parametrize(
    ("what", "why"),
    [("names", "it is for"), ("key", "does not belong to the key"), ("issuer", "not by the present issuer")],
)
def test_one_that_does_not_fit_is_made_anew(what: str, why: str, config: Any, nginx: Nginx) -> None:
    if what == "names":
        look(config, nginx, names=NAMES[:2])
    else:
        look(config, nginx)
    if what == "key":
        Path(config.key).write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    if what == "issuer":
        root = serialization.load_pem_private_key((Path(config.root).parent / "root.key").read_bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        assert isinstance(root, ec.EllipticCurvePrivateKey)
        bound = [*NAMES[:3], "10.0.0.5/32", "fd00::5/128"]
        Path(config.issuer).write_bytes(authority("issuer", key, by=("root", root), permitted=bound))
        Path(config.issuer_key).write_bytes(pem(key))
    assert why in look(config, nginx)[0]
    assert renewal.is_served(config)


@pytest.mark.parametrize("text", ["", "garbage", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_no_certificate_is_replaced(text: str, config: Any, nginx: Nginx) -> None:
    Path(config.certificate).write_text(text, encoding="utf-8")
    look(config, nginx)
    assert renewal.problem(config, config.certificate) == ""


def test_the_issuer_cannot_sign_for_another_name(config: Any, nginx: Nginx) -> None:
    look(config, nginx)
    before = Path(config.certificate).read_bytes()
    with pytest.raises(renewal.RenewalError, match=r"the new certificate is no good: .*permitted subtree"):
        look(config, nginx, names=[*NAMES, "bank.example"])
    assert Path(config.certificate).read_bytes() == before


@pytest.mark.parametrize("broken", ["issuer_key", "key", "root"])
def test_a_broken_file_leaves_the_old_one_serving(broken: str, config: Any, nginx: Nginx) -> None:
    look(config, nginx, days=1)
    before = Path(config.certificate).read_bytes()
    Path(getattr(config, broken)).write_text("broken", encoding="utf-8")
    with pytest.raises(renewal.RenewalError):
        look(config, nginx)
    assert Path(config.certificate).read_bytes() == before
    assert renewal.is_served(config)


def test_the_key_of_another_issuer_is_refused(config: Any, nginx: Nginx) -> None:
    Path(config.issuer_key).write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(renewal.RenewalError):
        look(config, nginx)
    assert not os.path.exists(config.certificate)


def test_what_nginx_does_not_take_is_undone(config: Any, nginx: Nginx) -> None:
    look(config, nginx, days=1)
    before = Path(config.certificate).read_bytes()
    nginx.deaf = True
    with pytest.raises(renewal.RenewalError, match="proxy does not serve the certificate on the disk"):
        look(config, nginx)
    assert Path(config.certificate).read_bytes() == before
    assert nginx.reloads == 3, "told of the new one, then of the old one"


def test_killed_before_nginx_was_told(config: Any, nginx: Nginx) -> None:
    look(config, nginx, days=1)
    nginx.running = False
    look(config, nginx)
    nginx.running = True
    Path(f"{config.certificate}.new").write_text("half of a certi", encoding="utf-8")
    assert not renewal.is_served(config)
    assert look(config, nginx) == []
    assert renewal.is_served(config)
    assert not os.path.exists(f"{config.certificate}.new")


def run_main(config: Any, tmp_path: Path, *arguments: str) -> int:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(renewal.dataclasses.asdict(config)), encoding="utf-8")
    return int(renewal.main(["--config", str(path), *arguments]))


def test_a_failure_is_told_and_noted(
    config: Any, nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(renewal, "Docker", lambda: nginx)
    assert run_main(config, tmp_path) == 0
    renewed = state(config)["renewed"]
    assert "renewed the certificate" in capsys.readouterr().out
    assert run_main(config, tmp_path) == 0
    assert capsys.readouterr().out == ""
    Path(config.issuer_key).write_text("broken", encoding="utf-8")
    assert run_main(config, tmp_path, "--force") == 1
    assert capsys.readouterr().out.startswith("<3>the certificate was not renewed: openssl x509: ")
    assert state(config)["ok"] is False
    assert state(config)["error"].startswith("openssl x509: ")
    assert state(config)["renewed"] == renewed
    Path(config.state).write_text("{", encoding="utf-8")
    assert run_main(config, tmp_path) == 0
    assert state(config)["ok"] is True


def test_without_dockerd_nothing_runs(tmp_path: Path) -> None:
    assert renewal.Docker(str(tmp_path / "nothing")).runs("proxy") is False
