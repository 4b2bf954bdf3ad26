# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's four operations in pyinfra: package, directory, daemon.json, service. The measure that we look up to."""

from io import StringIO

from pyinfra import config, host
from pyinfra.operations import apt, files, systemd

config.SUDO = True

apt.packages(name="Docker's package", packages=["docker.io"])
files.directory(name="Docker's directory", path="/etc/docker")
# The file that is there, so that nothing changes.
files.put(name="Docker's configuration", src=StringIO(host.data.daemon_json), dest="/etc/docker/daemon.json")
systemd.service(name="Docker's service", service="docker", running=True, enabled=True)
