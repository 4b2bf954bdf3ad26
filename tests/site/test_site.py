"""The whole site on fresh machines, in the order a company meets it: look, converge, use, run again, reboot.

The tests build on each other; the first failure explains the rest.
"""

from __future__ import annotations

import re

import pytest
import testinfra

from tests.site.conftest import MACHINES, Run, footprint, lab, on, playbook, squid_log, the_secrets, verdict
from tests.testinfra.secrets import leaks_in, leaks_on

NODES = ("node1", "node2")
INTERNAL = re.compile(r"corp\.lab|172\.29\.64\.|127\.0\.0\.1|localhost")
ENGINES = ("docker", "containerd")


@pytest.fixture(scope="module")
def first_run(fresh_lab: None) -> Run:
    """site.yml on bare machines, as talkative as it can be."""
    return playbook("site.yml", "--diff", "-vvv", log="first")


def test_check_mode_on_bare_machines_predicts_and_touches_nothing(fresh_lab: None) -> None:
    run = playbook("site.yml", "--check", "--diff", log="check")
    assert run.rc == 0, run.errors
    for machine in MACHINES:
        assert run.changed[machine] > 0
        assert on(machine, "ls -d /etc/slipway /etc/docker /var/lib/slipway 2>/dev/null", check=False) == ""


def test_first_run_converges(first_run: Run) -> None:
    assert first_run.rc == 0, first_run.errors


@pytest.mark.parametrize("machine", MACHINES)
def test_first_run_restarts_each_daemon_at_most_once(first_run: Run, machine: str) -> None:
    for engine in ENGINES:
        # systemd's message id for "unit started" (systemd/sd-messages.h, SD_MESSAGE_UNIT_STARTED)
        starts = on(
            machine, f"journalctl -q -o cat UNIT={engine}.service MESSAGE_ID=39f53479d3a045ac8e11786248231fbf | wc -l"
        )
        assert int(starts) <= 2, f"{engine} on {machine} was started {starts} times"


def test_first_run_says_no_secret(first_run: Run) -> None:
    assert leaks_in(first_run.output, the_secrets(), where="ansible's output") == []


def test_verify_is_green_and_complete(first_run: Run) -> None:
    lab("seed")
    run = playbook("playbooks/verify.yml", log="verify")
    assert run.rc == 0, run.output
    assert verdict()["ok"] is True


@pytest.mark.parametrize("node", NODES)
def test_docker_runs_a_bare_name_from_the_private_registry(first_run: Run, node: str) -> None:
    on(node, "docker image rm -f hello:1 2>/dev/null || true")
    assert "hello" in on(node, "docker run --rm hello:1")


@pytest.mark.parametrize("node", NODES)
def test_what_exists_only_upstream_arrives_through_the_proxy(first_run: Run, node: str) -> None:
    on(node, "docker image rm -f world:1 2>/dev/null || true")
    before = len(squid_log())
    on(node, "docker pull world:1")
    lines = squid_log()[before:]
    assert any("CONNECT registry-1.docker.io:443" in line for line in lines)


def test_a_container_sees_the_gpu_that_it_asks_for(first_run: Run) -> None:
    look = "hello:1 sh -c 'ls /dev | grep nvidia'"
    assert on("node1", f"docker run --rm --device nvidia.com/gpu=1 {look}").split() == ["nvidia1", "nvidiactl"]
    assert on("node1", f"docker run --rm {look}", check=False) == ""


def test_a_machine_without_a_gpu_refuses_one(first_run: Run) -> None:
    assert "nvidia" not in on("registry", "docker info"), "the registry is no node: NVIDIA is not for it"
    refused = on("node2", "docker run --rm --runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=0 hello:1 true", check=False)
    assert "failed to initialize NVML" in refused
    assert "hello" in on("node2", "docker run --rm --runtime=nvidia hello:1")


def test_the_proxy_never_saw_an_internal_host(first_run: Run) -> None:
    assert [line for line in squid_log() if INTERNAL.search(line.split()[6])] == []


@pytest.mark.parametrize("machine", MACHINES)
def test_no_secret_is_readable_on_the_machine(first_run: Run, machine: str) -> None:
    assert leaks_on(testinfra.get_host(f"docker://slipway-{machine}"), the_secrets()) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_no_secret_is_in_the_machines_journal(first_run: Run, machine: str) -> None:
    journal = on(machine, "journalctl -q --no-pager -o cat")
    assert "was called" in journal
    assert leaks_in(journal, the_secrets(), where=f"the journal of {machine}") == []


def test_second_run_changes_and_moves_nothing(first_run: Run) -> None:
    before = {machine: footprint(machine) for machine in MACHINES}
    run = playbook("site.yml", log="second")
    assert run.rc == 0, run.errors
    assert run.changed == dict.fromkeys(MACHINES, 0)
    assert {machine: footprint(machine) for machine in MACHINES} == before
    looked = run.output.partition("TASK [slipway.platform.registry : Write configuration")[2].partition("\nTASK")[0]
    assert "skipping: [registry]" in looked, "it is as the first run left it, containers included"


def test_what_was_stopped_by_hand_is_started_again(first_run: Run) -> None:
    """The pages' container, which nobody but a run starts, and a timer: seen although a run could end early."""
    on("registry", "docker stop slipway-registry-ui; systemctl disable --now slipway-registry-gc.timer")
    run = playbook("site.yml", log="drift")
    assert run.rc == 0, run.errors
    assert run.changed["node1"] == 0
    assert run.changed["registry"] > 0
    assert on("registry", "docker inspect -f '{{.State.Status}}' slipway-registry-ui") == "running"
    assert on("registry", "systemctl is-enabled slipway-registry-gc.timer") == "enabled"


def test_check_mode_on_converged_machines_predicts_no_change(first_run: Run) -> None:
    run = playbook("site.yml", "--check", "--diff", log="check-converged")
    assert run.rc == 0, run.errors
    assert run.changed == dict.fromkeys(MACHINES, 0)


def test_everything_is_back_after_a_reboot(first_run: Run) -> None:
    lab("reboot", *MACHINES)
    on("node1", "docker image rm -f hello:1")
    on("node1", "for i in $(seq 60); do docker pull -q hello:1 && exit 0; sleep 1; done; exit 1")
    run = playbook("site.yml", log="after-reboot")
    assert run.rc == 0, run.errors
    assert run.changed == dict.fromkeys(MACHINES, 0)
