# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin verify: run tests/testinfra/verify against the machines of the play, on the controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHECKS = "tests.testinfra.verify"
SITE = {
    "proxy": "site_proxy",
    "dns": "site_dns",
    "registry": "site_registry",
    "registry_caches": "site_registry_caches",
    "ca_certificates": "site_ca_certificates",
    "verify": "site_verify",
    "credentials": "docker_proxy_credentials",
    "kubernetes": "site_kubernetes",
}
CONNECTION = (
    "ansible_connection",
    "ansible_host",
    "ansible_host_key_checking",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_private_key_file",
    "ansible_user",
)
TIMEOUT = 1800  # seconds; a pull through a slow proxy takes minutes, a hung one must still end

display = Display()


def connection(variables: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return how to reach a machine from the variables that Ansible itself would use."""
    arguments = [variables.get("ansible_ssh_common_args"), variables.get("ansible_ssh_extra_args")]
    checking = constants.config.get_config_value("HOST_KEY_CHECKING")
    if not boolean(variables.get("ansible_host_key_checking", checking)):
        arguments.append("-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR")
    key = variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file")
    return {
        "kind": variables.get("ansible_connection", "ssh"),
        "address": variables.get("ansible_host"),
        "port": variables.get("ansible_port"),
        "user": variables.get("ansible_user"),
        "key": os.path.expanduser(key) if key else None,
        "arguments": " ".join(argument for argument in arguments if argument),
    }


def machine(
    name: str, variables: t.Mapping[str, t.Any], control: t.Mapping[str, t.Any] | None = None
) -> dict[str, t.Any]:
    """Return a machine as the checks read it; control: variables of the one where its cluster can be asked."""
    known = {"control": {"name": str(control["inventory_hostname"]), **connection(control)}} if control else {}
    return {
        **known,
        "name": name,
        "node": variables.get("kubernetes_node_name", name),
        "groups": variables.get("group_names", []),
        "connection": connection(variables),
        "site": {fact: variables[variable] for fact, variable in SITE.items() if variables.get(variable)},
    }


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documentation in plugins/modules/verify.py."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the checks, show the table, fail when a check failed."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(argument_spec={"verdict": {"type": "path", "required": True}})
        path = os.path.abspath(arguments["verdict"])
        everybody = variables["hostvars"]
        wanted = {*SITE.values(), "group_names", "kubernetes_node_name", *CONNECTION}
        machines = []
        for name in variables["ansible_play_hosts_all"]:
            own = self._values(everybody[name], wanted)
            control = (own.get("site_kubernetes") or {}).get("control_plane")
            there = self._values(everybody[control], CONNECTION) if control in everybody else None
            machines.append(machine(name, own, there and {**there, "inventory_hostname": control}))
        return self._check(path, json.dumps({"machines": machines}, default=str))

    def _values(self, known: t.Mapping[str, t.Any], wanted: t.Iterable[str]) -> dict[str, t.Any]:
        """Return some variables of a machine, without templates in them."""
        return dict(self._templar.template({key: known[key] for key in wanted if key in known}))

    @staticmethod
    def _check(path: str, site: str) -> dict[str, t.Any]:
        """Hand the site to the checks on their standard input; read their verdict."""
        if os.path.exists(path):
            os.unlink(path)  # an old verdict must not pass for this one
        done = subprocess.run(
            [sys.executable, "-m", CHECKS, path],
            cwd=ROOT,
            input=site,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        if not os.path.exists(path):
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise AnsibleActionFail(f"The checks did not run: {reason}. They need requirements.txt on the controller.")
        with open(path, encoding="utf-8") as handle:
            verdict = json.load(handle)
        display.display(done.stdout.rstrip())
        counts = verdict["counts"]
        summary = f"{counts['passed']} ok, {counts['failed']} failed, {counts['skipped']} not checked: {path}"
        if not verdict["ok"]:
            raise AnsibleActionFail(summary, result={"counts": counts})
        return {"changed": False, "msg": summary, "counts": counts}
