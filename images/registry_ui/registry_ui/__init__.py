# SPDX-License-Identifier: GPL-3.0-or-later
"""A web page for a container registry: reads from an index of its own, which notifications feed and a scan repairs."""

VERSION = "0.1.0"
