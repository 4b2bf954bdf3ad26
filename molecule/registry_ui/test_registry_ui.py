# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry in a browser, behind its own nginx: who may see and delete what, and that it never is in the way."""

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

from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
NAME = "registry-ui.corp.lab:6001"
URL = f"https://{NAME}"
UI = "slipway-registry-ui"
ANNA, RITA = ("anna", "annas-password"), ("rita", "ritas-password")
CARL, EMIL = ("carl", "carls-password"), ("emil", "emils-password")
CA = "/root/ca.crt"
CURL = f"curl -sS --cacert {CA} --max-time 60 --path-as-is"


def converge(**variables: Any) -> Play:
    return run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine"))


def ask(host: Any, path: str, login: tuple[str, str] | None = None, *options: str) -> tuple[int, str]:
    """Return status and body of an answer."""
    command = f"{CURL} -w '\\n%{{http_code}}'" + (f" -u {shlex.quote(':'.join(login))}" if login else "")
    output = host.run(f"{command} {' '.join(map(shlex.quote, options))} {shlex.quote(URL + path)}").stdout
    body, _, status = output.rpartition("\n")
    return int(status or 0), body


def post(host: Any, path: str, login: tuple[str, str], token: str = "", *options: str) -> int:
    """Send a form with the token of a page of that user's, or with another one; return the status."""
    if not token:
        found = re.search(r'name="token" value="([^"]+)"', ask(host, "/ui/health", login)[1])
        assert found, f"{login[0]} got no form"
        token = found[1]
    return ask(host, path, login, "--data-urlencode", f"token={token}", *options)[0]


def eventually(check: Callable[[], Any], within: float = 60) -> Any:
    deadline = time.monotonic() + within
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def tags(host: Any, repository: str) -> dict[str, Any]:
    """Return what the pages know of a repository's tags."""
    status, body = ask(host, f"/ui/api/v1/tags?repository={repository}")
    return {row["name"]: row for row in json.loads(body)["tags"]} if status == 200 else {}


def push(host: Any, repository: str, tag: str = "1") -> None:
    image = f"{NAME}/{repository}:{tag}"
    host.check_output(f"head -c 300K /dev/urandom > /root/blob && tar -C /root -c blob | docker import - {image}")
    host.check_output(f"printf %s annas-password | docker login -u anna --password-stdin {NAME} && docker push {image}")


@pytest.fixture(scope="module", autouse=True)
def _client(hosts: dict[str, Any]) -> None:
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    for host in hosts.values():
        directory = f"/etc/docker/certs.d/{NAME}"
        host.check_output(f"mkdir -p {directory} && printf %s {shlex.quote(ca)} | tee {CA} > {directory}/ca.crt")
        push(host, "hello")
        push(host, "team-c/app")


def test_what_was_pushed_shows_within_seconds(host: Any) -> None:
    push(host, "team-a/new", "7")
    # A scan may see the tag before its notification is read, which then adds who pushed it when.
    assert eventually(lambda: tags(host, "team-a/new").get("7", {}).get("pushed"), within=20)
    assert tags(host, "team-a/new")["7"]["size"] > 300_000
    status, page = ask(host, "/ui/")
    assert status == 200 and "/ui/r/team-a/new" in page and "/ui/r/hello" in page


def test_a_pull_is_counted(host: Any) -> None:
    host.check_output(f"docker image rm -f {NAME}/hello:1 && docker pull {NAME}/hello:1")
    assert eventually(lambda: tags(host, "hello").get("1", {}).get("pulls") == 1, within=20)


def test_browsers_are_led_to_the_pages(host: Any) -> None:
    assert "location: /ui/" in ask(host, "/", None, "-i")[1].lower()
    assert ask(host, "/ui", None)[0] == 302
    policy = ask(host, "/ui/", None, "-i")[1].lower()
    assert "content-security-policy: default-src 'none'" in policy and "access-control-allow" not in policy


def test_the_container_has_no_rights_it_does_not_need(host: Any) -> None:
    known = json.loads(host.check_output(f"docker inspect {UI}"))[0]
    settings = known["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"] and not settings["Privileged"]
    assert settings["RestartPolicy"]["Name"] == "always" and settings["Memory"] == 512 * 2**20
    assert known["Config"]["User"] == "65531:65531" and not settings["PortBindings"]
    assert list(known["NetworkSettings"]["Networks"]) == ["slipway-registry"]
    assert host.run(f"docker exec {UI} python3 -c \"open('/etc/slipway/x', 'w')\"").rc != 0


@pytest.mark.parametrize(("login", "status"), [(None, 200), (RITA, 200), (CARL, 200), (("anna", "wrong"), 401)])
def test_who_sees_what(login: tuple[str, str] | None, status: int, host: Any) -> None:
    for path in ("/ui/", "/ui/space", "/ui/r/hello", "/ui/api/v1/state"):
        assert ask(host, path, login)[0] == status, path
    assert ask(host, "/ui/static/app.css", login)[0] == 200


def test_one_login_is_enough(host: Any) -> None:
    status, answer = ask(host, "/ui/login", None, "-i")
    assert status == 401 and 'www-authenticate: basic realm="slipway registry"' in answer.lower()
    assert ask(host, "/ui/login", ("anna", "wrong"))[0] == 401
    status, answer = ask(host, "/ui/login?next=/ui/r/hello", ANNA, "-i")
    assert status == 303 and "location: /ui/r/hello" in answer.lower()


@pytest.mark.parametrize(
    ("login", "hello", "team_c"), [(None, False, False), (RITA, False, False), (CARL, False, True), (ANNA, True, True)]
)
def test_the_button_is_for_who_may(login: tuple[str, str] | None, hello: bool, team_c: bool, host: Any) -> None:
    forged = ("-H", "X-Slipway-User: anna", "-H", "X-Slipway-May: delete")
    for repository, may in (("hello", hello), ("team-c/app", team_c)):
        status, page = ask(host, f"/ui/r/{repository}/-/tag/1", login, *forged)
        assert (status, "Delete tag" in page) == (200, may), repository


def test_who_may_not_deletes_nothing(host: Any) -> None:
    found = re.search(r'name="token" value="([^"]+)"', ask(host, "/ui/health", ANNA)[1])
    assert found
    assert post(host, "/ui/r/hello/-/tag/1/delete", RITA) == 403
    assert post(host, "/ui/r/hello/-/tag/1/delete", CARL) == 403
    assert post(host, "/ui/r/hello/-/tag/1/delete", RITA, found[1]) == 403
    assert post(host, "/ui/r/team-c/app/-/../../../hello/-/tag/1/delete", CARL) == 404
    assert post(host, "/ui/r/hello/-/tag/1/delete", ANNA, found[1], "-H", "Origin: https://evil.example") == 403
    assert ask(host, "/ui/r/hello/-/tag/1/delete", None, "-d", f"token={found[1]}")[0] == 401
    assert ask(host, "/v2/hello/manifests/1", None, "--head", "-H", "Accept: */*")[0] == 200


def test_delete_and_undo(host: Any) -> None:
    push(host, "team-c/gone")
    assert eventually(lambda: tags(host, "team-c/gone"))
    host.check_output(f"docker image rm -f {NAME}/team-c/gone:1")
    assert post(host, "/ui/r/team-c/gone/-/tag/1/delete", CARL) == 303
    assert host.run(f"docker pull {NAME}/team-c/gone:1").rc != 0
    number = re.search(r"/ui/r/team-c/gone/-/undo/(\d+)", ask(host, "/ui/deleted", CARL)[1])
    assert number and "carl" in ask(host, "/ui/deleted")[1]
    assert post(host, f"/ui/r/team-c/gone/-/undo/{number[1]}", RITA) == 403
    assert post(host, f"/ui/r/team-c/gone/-/undo/{number[1]}", CARL) == 303
    assert host.run(f"docker pull {NAME}/team-c/gone:1").rc == 0


def test_nothing_is_deleted_while_the_registry_is_read_only(host: Any) -> None:
    host.check_output("touch /run/slipway-registry/collecting")
    try:
        assert "takes no pushes now" in ask(host, "/ui/")[1]
        assert post(host, "/ui/r/hello/-/tag/1/delete", ANNA) == 409
    finally:
        host.check_output("rm /run/slipway-registry/collecting")


def test_only_nginx_and_the_registry_are_let_in(host: Any) -> None:
    address = host.check_output(
        f"docker inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}' {UI}"
    )
    forged = "-H 'X-Slipway-User: anna' -H 'X-Slipway-May: delete'"
    for path in ("/ui/", "/events", "/ui/metrics"):
        assert (
            host.check_output(f"curl -sS -o /dev/null -w '%{{http_code}}' {forged} http://{address}:8080{path}")
            == "403"
        )
    for path in ("/events", "/ui/../events", "/ui/%2e%2e/events", "/ui/events", "/ui//events"):
        assert ask(host, path, ANNA, "-d", "{}")[0] in (400, 404, 405), path


def test_secrets_stay_where_they_belong(host: Any) -> None:
    secret = Secret(host.check_output("cat /etc/slipway/registry/ui/secret").strip())
    assert leaks_on(host, [secret]) == []
    output = converge().succeeded().output
    assert leaks_in(output, [secret], where="ansible's output") == []
    assert host.file("/etc/slipway/registry/ui/secret").mode == 0o640
    assert secret.password not in host.check_output(f"docker inspect {UI} slipway-registry slipway-registry-proxy")


def test_without_the_pages_the_registry_goes_on(host: Any) -> None:
    host.check_output(f"docker stop {UI}")
    push(host, "team-a/meanwhile")
    status, text = ask(host, "/ui/")
    assert status == 503 and "the registry itself goes on" in text
    assert ask(host, "/v2/team-a/meanwhile/tags/list")[0] == 200
    assert "it was exited" in converge().succeeded().output
    assert eventually(lambda: tags(host, "team-a/meanwhile"))


def test_they_come_back_from_a_crash_and_with_the_engine(host: Any) -> None:
    pid = host.check_output(f"docker inspect -f '{{{{.State.Pid}}}}' {UI}")
    host.check_output(f"kill -9 {pid}")
    assert eventually(lambda: ask(host, "/ui/")[0] == 200)
    host.check_output("systemctl restart docker")
    assert eventually(lambda: ask(host, "/ui/")[0] == 200)


def test_a_lost_index_comes_back(host: Any) -> None:
    host.check_output(f"docker stop {UI} && rm -f /var/lib/slipway-registry-ui/* && docker start {UI}")
    assert eventually(lambda: "1" in tags(host, "hello"))
    assert eventually(lambda: "1" in tags(host, "team-c/app"))


def test_a_second_run_changes_nothing(host: Any) -> None:
    before = host.check_output(f"docker inspect -f '{{{{.Id}}}} {{{{.State.StartedAt}}}}' {UI}")
    assert converge().succeeded().changed == 0
    assert host.check_output(f"docker inspect -f '{{{{.Id}}}} {{{{.State.StartedAt}}}}' {UI}") == before


def test_pages_only_for_who_is_logged_in(host: Any) -> None:
    users = [{"name": name, "password": password} for name, password in (ANNA, RITA, EMIL)]
    users[1]["role"], users[2]["read"] = "reader", ["team-c/"]  # type: ignore[assignment]
    converge(registry_pull="authenticated", registry_users=users).succeeded()
    status, answer = ask(host, "/ui/", None, "-i")
    assert status == 401 and "www-authenticate: basic" in answer.lower() and "hello" not in answer
    assert ask(host, "/ui/", RITA)[0] == 200
    seen = [ask(host, path, EMIL)[0] for path in ("/ui/", "/ui/r/hello", "/ui/r/team-c/app", "/ui/static/app.css")]
    assert seen == [403, 403, 200, 200]
    converge().succeeded()


def test_switched_off_and_removed_nothing_is_left(host: Any) -> None:
    image = host.check_output(f"docker inspect -f '{{{{.Config.Image}}}}' {UI}")
    run_play(HERE / "remove.yml").succeeded()
    assert host.run(f"docker inspect {UI}").rc != 0 and host.run(f"docker image inspect {image}").rc != 0
    for path in ("/var/lib/slipway-registry-ui", "/usr/local/lib/slipway/registry_ui"):
        assert not host.file(path).exists
    run_play(HERE / "converge.yml", {"registry_ui": False}, arguments=("--tags", "registry")).succeeded()
    assert ask(host, "/ui/")[0] == 404 and ask(host, "/v2/hello/tags/list")[0] == 200
    assert not host.file("/etc/slipway/registry/ui/secret").exists
