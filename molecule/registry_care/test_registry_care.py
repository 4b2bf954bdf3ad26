# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry that is left alone for years: renewed certificates, another version and back, and nothing to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra import oci
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
SITE = HERE.parents[1] / "inventory/lab/group_vars/all/site.yml"
HOST, PORT = "registry-care.corp.lab", 6001
NAME = f"{HOST}:{PORT}"
CA = "/root/ca.crt"
LOGIN = "ci:ci-may-push"
REGISTRY, PROXY = "slipway-registry", "slipway-registry-proxy"
ETC = "/etc/slipway/registry"
RENEWAL = f"{ETC}/renewal"
PROGRAM = "/usr/local/lib/slipway/registry-renew"
SERVICE, TIMER = "slipway-registry-renew.service", "slipway-registry-renew.timer"
# The image of that tag in the lab is Debian's build: 2.8.2 on Debian 12, 2.8.3 on Debian 13.
V2, V3 = "2.8.2", "3.1.2"
DAY = 86400
FLOOD = re.compile(r"traces export|4318|SpanContext|opentelemetry")
# A client that takes its time: it reads on when it is told to, and leaves the digest of what it got.
SLOW_PULL = f"""
import hashlib, os, pathlib, ssl, sys, time, urllib.request
answer = urllib.request.urlopen(sys.argv[1], context=ssl.create_default_context(cafile='{CA}'))
digest = hashlib.sha256(answer.read(65536))
pathlib.Path('/root/pull-begun').touch()
while not os.path.exists('/root/pull-on'):
    time.sleep(0.2)
for chunk in iter(lambda: answer.read(65536), b''):
    digest.update(chunk)
pathlib.Path('/root/pull-part').write_text(digest.hexdigest())
os.rename('/root/pull-part', '/root/pull-digest')
"""
# What somebody does who has taken the issuer's key: a certificate of the name given, served on port 9443.
FORGE = f"""set -eu
cd /root
openssl req -new -key {ETC}/nginx/tls/private_key.pem -subj /CN=forged -out forged.csr
echo "subjectAltName = DNS:$1" > forged.ext
openssl x509 -req -in forged.csr -CA {RENEWAL}/issuer.pem -CAkey {RENEWAL}/issuer.key -set_serial 7 -days 9 \
    -extfile forged.ext -out forged.crt
# Not by the loopback address: docker trusts whatever answers there.
grep -q "$1" /etc/hosts || echo "$(hostname -I | cut -d' ' -f1) $1" >> /etc/hosts
systemctl stop forged 2>/dev/null || true
systemd-run --quiet --collect --unit forged openssl s_server -accept 9443 -www -cert /root/forged.crt \
    -cert_chain {RENEWAL}/issuer.pem -key {ETC}/nginx/tls/private_key.pem
for i in $(seq 60); do openssl s_client -connect 127.0.0.1:9443 </dev/null >/dev/null 2>&1 && exit 0; sleep 0.5; done
exit 1
"""


def secrets() -> list[Secret]:
    """Return the keys of the authority, the issuer and the server, as the controller has them."""
    pki = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    names = ("ca.key", f"{HOST}.issuer.key", f"{HOST}.key")
    return [Secret((pki / name).read_text(encoding="utf-8").splitlines()[1], name) for name in names]


def converge(**variables: Any) -> Play:
    """Run only the registry of the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine"))


def eventually(check: Callable[[], Any], within: float = 60) -> bool:
    """Tell whether a check becomes true within some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.5)
    return bool(check())


def curl(host: Any, path: str, *options: str) -> Any:
    return host.run(f"curl -sS --cacert {CA} --max-time 60 {' '.join(options)} https://{NAME}{path}")


def started(host: Any) -> str:
    """Return what changes when a container is made anew or restarted."""
    return str(host.check_output(f"docker inspect -f '{{{{.Id}}}} {{{{.State.StartedAt}}}}' {REGISTRY} {PROXY}"))


def chain(host: Any) -> list[str]:
    """Return the certificates that are served, the leaf first, as PEM."""
    done = host.run(f"openssl s_client -connect {NAME} -servername {HOST} -showcerts </dev/null 2>/dev/null")
    return re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", done.stdout, re.DOTALL)


def described(host: Any, certificate: str, what: str) -> str:
    return str(host.check_output(f"printf %s {shlex.quote(certificate)} | openssl x509 -noout -{what}"))


def days_left(host: Any) -> float:
    """Return how many days the certificate that is served still lasts, by the machine's clock."""
    end = described(host, chain(host)[0], "enddate").partition("=")[2]
    return (int(host.check_output(f"date -d '{end}' +%s")) - int(host.check_output("date +%s"))) / DAY


def serves(host: Any) -> bool:
    """Tell whether a client that trusts nothing but the authority is served, by name and short name."""
    return bool(curl(host, "/healthz", "-f").rc == 0 and pull(host, "team/app:1").rc == 0)


def make_image(host: Any, image: str, size: str) -> None:
    host.check_output(f"head -c {size} /dev/urandom > /root/blob && tar -C /root -c blob | docker import - {image}")


def push(host: Any, image: str, size: str = "300K") -> str:
    """Push a new image with docker; return its digest."""
    make_image(host, f"{NAME}/{image}", size)
    host.check_output(f"docker push -q {NAME}/{image}")
    return str(host.check_output(f"docker inspect -f '{{{{index .RepoDigests 0}}}}' {NAME}/{image}")).partition("@")[2]


def pull(host: Any, image: str) -> Any:
    host.run(f"docker image rm -f {NAME}/{image}")
    return host.run(f"docker pull -q {NAME}/{image}")


def make_it_end_soon(host: Any, days: int = 1) -> None:
    """Have a certificate served that ends within some days, as the machine's own program makes it."""
    change = f"import json; c=json.load(open('{RENEWAL}/renewal.json')); c['days']={days}; print(json.dumps(c))"
    host.check_output(f'python3 -c "{change}" > /root/short.json')
    host.check_output(f"{PROGRAM} --config /root/short.json --force")
    assert days_left(host) <= days


@pytest.fixture(scope="module", autouse=True)
def _client(hosts: dict[str, Any]) -> None:
    """Make the machine a client of its own registry that trusts the authority, and put one image there."""
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    (host,) = hosts.values()
    directory = f"/etc/docker/certs.d/{NAME}"
    host.check_output(f"mkdir -p {directory} && printf %s {shlex.quote(ca)} | tee {CA} > {directory}/ca.crt")
    user, _, password = LOGIN.partition(":")
    host.check_output(f"printf %s {password} | docker login --username {user} --password-stdin {NAME} 2>/dev/null")
    push(host, "team/app:1")


def test_the_authority_stays_on_the_controller(host: Any) -> None:
    """The machine has a certificate of its own issuer, which may sign for its names, and no key of the authority."""
    pki = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    leaf, issuer = chain(host)
    assert f"CN=Slipway issuer of {HOST}" in described(host, leaf, "issuer -nameopt RFC2253")
    assert "Slipway registry CA" in described(host, issuer, "issuer")
    bounds = described(host, issuer, "ext nameConstraints,basicConstraints")
    assert "Name Constraints: critical" in bounds
    assert "CA:TRUE, pathlen:0" in bounds
    for file in ("issuer.key", "issuer.pem", "root.pem"):
        assert host.file(f"{RENEWAL}/{file}").user == "root"
    assert host.file(f"{RENEWAL}/issuer.key").mode == 0o600
    key = (pki / "ca.key").read_text(encoding="utf-8").splitlines()[1]
    assert host.run(f"grep -rlF {shlex.quote(key)} /etc /var/lib /usr/local").stdout == ""
    assert leaks_on(host, secrets()) == []


def test_clients_need_nothing_but_the_authority(host: Any) -> None:
    assert serves(host)
    strict = (
        f"import ssl, socket; c=ssl.create_default_context(cafile='{CA}'); c.verify_flags |= ssl.VERIFY_X509_STRICT;"
        f"c.wrap_socket(socket.create_connection(('{HOST}', {PORT})), server_hostname='{HOST.partition('.')[0]}')"
    )
    assert host.run("python3 -c %s", strict).rc == 0
    client = f"openssl s_client -connect {NAME} -verify_return_error -x509_strict -CAfile {CA} -no-CApath -no-CAstore"
    assert host.run(f"{client} </dev/null").rc == 0


def test_one_day_left_is_renewed_while_somebody_pulls(host: Any) -> None:
    """A slow pull that began before the renewal ends after it; the next connection gets the new certificate."""
    make_it_end_soon(host)
    push(host, "team/big:1", "40M")
    kind = f"-H 'Accept: {oci.MANIFEST}, application/vnd.docker.distribution.manifest.v2+json'"
    digest = json.loads(curl(host, "/v2/team/big/manifests/1", kind).stdout)["layers"][0]["digest"]
    before, url = started(host), f"https://{NAME}/v2/team/big/blobs/{digest}"
    host.check_output("rm -f /root/pull-*")
    host.check_output(f"systemd-run --quiet --unit slow-pull python3 -c {shlex.quote(SLOW_PULL)} {url}")
    assert eventually(lambda: host.file("/root/pull-begun").exists)
    host.check_output(f"systemctl start {SERVICE}")
    assert days_left(host) > 360
    assert "renewed the certificate (it ends in 1 days)" in host.check_output(f"journalctl -u {SERVICE} -o cat -n 20")
    assert serves(host)
    host.check_output("touch /root/pull-on")
    assert eventually(lambda: host.file("/root/pull-digest").exists)
    assert host.file("/root/pull-digest").content_string == digest.removeprefix("sha256:")
    assert started(host) == before
    leaf = chain(host)[0]
    host.check_output(f"systemctl start {SERVICE}")
    assert chain(host)[0] == leaf, "there is nothing to renew"
    again = converge().succeeded()
    assert again.changed == 0, "the role leaves alone what the machine has made"
    assert leaks_in(again.output, secrets()) == []


def test_the_issuer_signs_for_no_other_name(host: Any) -> None:
    """Control first: what it signs for its own name is accepted."""
    asked = "curl -sS -o /dev/null --cacert {ca} https://{name}:9443/"
    try:
        host.check_output(f"bash -c {shlex.quote(FORGE)} forge {HOST}")
        assert host.run(asked.format(ca=CA, name=HOST)).rc == 0
        host.check_output(f"bash -c {shlex.quote(FORGE)} forge bank.corp.lab")
        refused = host.run(asked.format(ca=CA, name="bank.corp.lab"))
        assert "permitted subtree violation" in refused.stderr
        trust = "/etc/docker/certs.d/bank.corp.lab:9443"
        host.check_output(f"mkdir -p {trust} && cp {CA} {trust}/ca.crt")
        refused = host.run("timeout 60 docker pull bank.corp.lab:9443/team/app:1")
        assert "is not permitted by any constraint" in refused.stderr
    finally:
        host.run("systemctl stop forged; rm -f /root/forged.*")


def test_a_broken_key_leaves_the_old_one_serving(host: Any) -> None:
    make_it_end_soon(host)
    leaf = chain(host)[0]
    host.check_output(f"echo broken > {RENEWAL}/issuer.key")
    assert host.run(f"systemctl start {SERVICE}").rc != 0
    assert chain(host)[0] == leaf
    assert serves(host)
    host.check_output("systemctl start slipway-registry-health.service")
    told = host.check_output("journalctl -u slipway-registry-health -o cat -n 20")
    assert "the certificate cannot be renewed: openssl x509: " in told
    play = converge().succeeded()
    assert "renewed the certificate (it ends in 1 days)" in play.output
    assert days_left(host) > 360
    host.check_output("systemctl start slipway-registry-health.service")
    assert "over: the certificate cannot be renewed" in host.check_output(
        "journalctl -u slipway-registry-health -o cat -n 20"
    )


def test_a_killed_job_is_repaired_by_the_next(host: Any) -> None:
    """Killed at whatever point: what is served is good at any time, and the next look ends the work."""
    make_it_end_soon(host)
    for tenths in (1, 2, 4, 6, 9):
        host.check_output(f"systemctl start --no-block {SERVICE}")
        host.run(f"sleep 0.{tenths}; systemctl kill --signal=KILL {SERVICE}")
        assert curl(host, "/healthz", "-f").rc == 0
    host.check_output(f"head -c 100 {ETC}/nginx/tls/certificate.pem > {ETC}/nginx/tls/certificate.pem.new")
    host.run(f"systemctl reset-failed {SERVICE}")
    host.check_output(f"systemctl start {SERVICE}")
    assert days_left(host) > 360
    assert serves(host)
    assert not host.file(f"{ETC}/nginx/tls/certificate.pem.new").exists


def test_another_name_needs_no_restart(host: Any) -> None:
    before = started(host)
    converge(registry_alternative_names=["images.corp.lab", "10.1.2.3"]).succeeded()
    assert curl(host, "/healthz", "-f").rc == 0
    for name in ("images.corp.lab", "10.1.2.3"):
        there = f"--resolve {name}:{PORT}:127.0.0.1 --connect-to ::127.0.0.1:{PORT}"
        assert host.run(f"curl -sSf --cacert {CA} {there} https://{name}:{PORT}/healthz").rc == 0
    assert started(host) == before


def test_a_certificate_of_the_sites_own(host: Any) -> None:
    """Taken as it is, and checked against its key first; nothing renews it here."""
    pki = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    own = "\n".join(chain(host))
    key, other, ca = ((pki / name).read_text(encoding="utf-8") for name in (f"{HOST}.key", "ca.key", "ca.crt"))
    files = {"registry_tls": "files", "registry_certificate": own, "registry_ca_certificate": ca}
    wrong = converge(**files, registry_private_key=other)
    assert wrong.rc != 0
    assert "registry_private_key is the key of another certificate" in wrong.output
    assert other.splitlines()[1] not in wrong.output
    before = started(host)
    right = converge(**files, registry_private_key=key).succeeded()
    assert key.splitlines()[1] not in right.output
    assert started(host) == before
    assert "\n".join(chain(host)) == own
    for path in (RENEWAL, PROGRAM, f"/etc/systemd/system/{TIMER}", f"/etc/systemd/system/{SERVICE}"):
        assert not host.file(path).exists
    assert host.run(f"systemctl is-active {TIMER}").rc != 0
    host.check_output("systemctl start slipway-registry-health.service")
    problems = json.loads(host.check_output("cat /run/slipway-registry/health.json"))["problems"]
    assert "renewal" not in problems
    assert "certificate" not in problems


def test_without_renewal_the_controller_signs(host: Any) -> None:
    converge(registry_renewal=False).succeeded()
    (leaf,) = chain(host)
    assert "Slipway registry CA" in described(host, leaf, "issuer")
    assert serves(host)
    converge(registry_version=V2).succeeded()
    assert len(chain(host)) == 2
    assert serves(host)


# --- Another version, and back --------------------------------------------------------------------------------------


def registry(host: Any) -> oci.Registry:
    return oci.Registry(host, HOST, PORT, CA)


def version(host: Any) -> str:
    return str(host.run(f"docker exec {REGISTRY} registry --version").stdout)


def content(host: Any, images: dict[str, str]) -> list[str]:
    """Return what does not arrive whole, of images by digest (repository@digest) and by tag."""
    wrong = []
    for image, digest in images.items():
        repository = re.split("[:@]", image)[0]
        kinds = f"-H 'Accept: {oci.MANIFEST}, {oci.INDEX}, application/vnd.docker.distribution.manifest.v2+json'"
        for reference in {digest, re.split("[:@]", image, maxsplit=1)[1]}:
            text = curl(host, f"/v2/{repository}/manifests/{reference}", kinds).stdout
            if oci.digest(text) != digest:
                wrong.append(f"{image} by {reference}")
                continue
            manifest = json.loads(text)
            for part in [*manifest.get("layers", []), *([manifest["config"]] if "config" in manifest else [])]:
                name = part["digest"].partition(":")[2]
                blob = f"/v2/{repository}/blobs/{part['digest']}"
                got = host.run(f"curl -sS --cacert {CA} https://{NAME}{blob} | sha256sum").stdout.split()[0]
                wrong += [] if got == name else [f"{image}: {part['digest']}"]
    return wrong


def push_all(host: Any, where: str) -> dict[str, str]:
    """Push an image with docker, one without an engine, one of two platforms; return tags' and children's digests."""
    found = {f"{where}/docker:1": push(host, f"{where}/docker:1")}
    found[f"{where}/plain:1"] = registry(host).push(f"{where}/plain", "1", f"plain of {where}", login=LOGIN)
    children = [registry(host).push(f"{where}/multi", "", f"{where} {number}", login=LOGIN) for number in range(2)]
    found[f"{where}/multi:1"] = registry(host).push_index(f"{where}/multi", "1", children, login=LOGIN)
    return found | {f"{where}/multi@{child}": child for child in children}


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    """Every image that has to arrive whole, by name; the tests below fill it one after the other."""
    return {}


def test_v2_is_filled(host: Any, kept: dict[str, str]) -> None:
    if " 2.8" not in version(host):
        converge(registry_version=V2).succeeded()
    assert " 2.8" in version(host)
    kept.update(push_all(host, "by-v2"))
    kept["by-v2/gone:1"] = registry(host).push("by-v2/gone", "1", "soon deleted", login=LOGIN)
    assert content(host, kept) == []


def test_v3_serves_what_v2_has_stored(host: Any, kept: dict[str, str]) -> None:
    """One variable; then push, overwrite, delete and collect garbage on v3."""
    assert kept, "the test before this one has to fill it"
    converge(registry_version=V3).succeeded()
    assert f"v{V3}" in version(host)
    assert content(host, kept) == []
    assert pull(host, "by-v2/docker:1").rc == 0
    kept.update(push_all(host, "by-v3"))
    kept["by-v2/docker:1"] = push(host, "by-v2/docker:1")
    gone = kept.pop("by-v2/gone:1")
    assert registry(host).ask(("DELETE", f"/v2/by-v2/gone/manifests/{gone}", LOGIN)) == [202]
    root = "/srv/registry/docker/registry/v2"
    host.check_output(f"find {root} -type f -exec touch --no-create --date='2 days ago' {{}} +")
    host.check_output("systemctl start slipway-registry-gc.service")
    assert json.loads(host.file("/var/lib/slipway/registry/gc.json").content_string)["ok"] is True
    blob = oci.digest("soon deleted")[7:]
    assert not host.file(f"{root}/blobs/sha256/{blob[:2]}/{blob}/data").exists
    assert content(host, kept) == []


def test_control_v3_floods_a_log(host: Any) -> None:
    """What the next test looks for, of a registry that is left to its own settings."""
    image = host.check_output(f"docker inspect -f '{{{{.Config.Image}}}}' {REGISTRY}")
    options = "-e OTEL_TRACES_EXPORTER=otlp -p 127.0.0.1:5066:5000 --tmpfs /var/lib/registry --entrypoint registry"
    host.check_output(
        f"docker run -d --name flood {options} -v {ETC}/distribution/config.yml:/c.yml:ro {image} serve /c.yml"
    )
    try:
        assert eventually(lambda: host.run("curl -sf http://127.0.0.1:5066/v2/").rc == 0)
        assert eventually(lambda: FLOOD.search(host.run("docker logs flood 2>&1").stdout))
    finally:
        host.run("docker rm -f flood")


def test_v3_floods_no_log(host: Any, kept: dict[str, str]) -> None:
    """Without our settings v3 sends traces to localhost:4318, and logs each failure."""
    begin = host.check_output("date -u +%Y-%m-%dT%H:%M:%SZ")
    for number in range(8):
        registry(host).push("by-v3/log", "1", f"log {number}", login=LOGIN)
        time.sleep(2)
    log = host.run(f"docker logs --since {begin} {REGISTRY} 2>&1").stdout
    assert "by-v3/log" in log
    assert [line for line in log.splitlines() if FLOOD.search(line)] == []
    assert len(log) < 64_000


def test_v2_serves_what_v3_has_stored(host: Any, kept: dict[str, str]) -> None:
    converge(registry_version=V2).succeeded()
    assert " 2.8" in version(host)
    assert content(host, kept) == []
    assert pull(host, "by-v3/docker:1").rc == 0
    kept.update(push_all(host, "by-v2-again"))
    assert content(host, kept) == []


# --- Nothing to do --------------------------------------------------------------------------------------------------


def site(**variables: Any) -> Play:
    """Run what site.yml does for the registry's machine, beside the roles of every machine."""
    files = [word for file in (SITE, HERE / "vars.yml") for word in ("-e", f"@{file}")]
    return run_play(HERE / "early.yml", arguments=("-vvv", "--diff", *files, "-e", json.dumps(variables)))


def looked(play: Play) -> bool:
    """Tell whether the role looked at the machine, which an early end spares it."""
    task = play.output.partition("TASK [slipway.platform.registry : Write configuration")[2].partition("\nTASK")[0]
    return "skipping:" not in task


def reasons(play: Play) -> str:
    """Return what the machine said differs."""
    return play.output.partition("See whether the machine is as the last run left it]")[2].partition("\nTASK")[0]


def test_a_machine_as_it_was_left_is_left_alone(host: Any) -> None:
    assert looked(site().succeeded())
    play = site().succeeded()
    assert play.changed == 0
    assert not looked(play), reasons(play)


def test_drift_is_seen_and_repaired(host: Any) -> None:
    """Each of these alone has the roles look again (tests/unit); here all at once are told and repaired."""
    image = host.check_output(f"docker inspect -f '{{{{.Config.Image}}}}' {PROXY}")
    host.check_output("systemctl disable --now slipway-registry-health.timer")
    host.check_output(f"echo '# by hand' >> {ETC}/nginx/nginx.conf; echo broken > {ETC}/nginx/tls/certificate.pem")
    host.check_output(f"docker update --restart no {PROXY}; docker stop {REGISTRY}")
    host.check_output(f"docker tag {image} kept:1; docker image rm {image}")
    play = site().succeeded()
    for what in (
        "unit slipway-registry-health.timer",
        f"{ETC}/nginx/nginx.conf",
        f"{ETC}/nginx/tls/certificate.pem",
        f"container {PROXY}",
        f"container {REGISTRY}",
        f"image {image}",
    ):
        assert what in reasons(play), what
    assert serves(host)
    assert host.run("systemctl is-enabled slipway-registry-health.timer").rc == 0
    assert host.check_output(f"docker inspect -f '{{{{.HostConfig.RestartPolicy.Name}}}}' {PROXY}") == "always"
    assert host.run(f"docker image inspect {image}").rc == 0
    assert "by hand" not in host.file(f"{ETC}/nginx/nginx.conf").content_string
    again = site().succeeded()
    assert not looked(again), reasons(again)
