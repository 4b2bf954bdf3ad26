# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of nvidia_container_toolkit."""

from __future__ import annotations

import re
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.slipway.platform.plugins.module_utils import _openpgp
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, web_address

KEY_ADDRESS = "https://nvidia.github.io/libnvidia-container/gpgkey"
# The first release with nvidia-cdi-refresh.path and .service.
OLDEST = (1, 18)


def nvidia_version(value: t.Any) -> Verdict:
    """Accept a version or shell pattern that only 1.18 or later can match."""
    match = re.fullmatch(r"(\d+)\.(?:\*|(\d+)[0-9A-Za-z.+~*?-]*)", value) if isinstance(value, str) else None
    if match and (int(match[1]), int(match[2] or 0)) >= OLDEST:
        return None
    return "a version or pattern of 1.18 or later, such as 1.20.* or 1.20.1-1 (older ones do not refresh CDI specs)"


def nvidia_repository_url(value: t.Any) -> Verdict:
    """Accept an http or https address without credentials."""
    return web_address(value)


def openpgp_fingerprint(value: t.Any) -> Verdict:
    """Accept a fingerprint of an OpenPGP key: 40 hex digits, 64 of a version 6 key; blanks make no difference."""
    if re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", _digits(value)):
        return None
    return "a fingerprint of 40 or 64 hex digits, as gpg --show-keys prints it"


def _digits(value: t.Any) -> str:
    return "".join(str(value).split()).upper()


def nvidia_key(value: t.Any) -> Verdict:
    """Accept {enabled, key, fingerprint}: the public key that has the pinned fingerprint, where the role is on."""
    if not boolean(value.get("enabled"), strict=False):
        return None
    text = str(value.get("key") or "")
    if not text.strip():
        needs = f"the text of the public key that signs NVIDIA's repository, which NVIDIA publishes at {KEY_ADDRESS}"
        return Problem(needs, ".key", "empty")
    wanted = _digits(value.get("fingerprint"))
    try:
        found = _openpgp.fingerprint(text.encode())
    except _openpgp.KeyTextError as exc:
        return Problem(f"the armoured public key with the fingerprint {wanted} ({KEY_ADDRESS})", ".key", str(exc))
    if found == wanted:
        return None
    needs = f"the key that nvidia_container_toolkit_repository_fingerprint names, {wanted}"
    return Problem(needs, ".key", f"the key {found}")


def nvidia_gpu(value: t.Any) -> Verdict:
    """Accept {gpu, default_runtime, require_gpu}: nothing asks for a GPU where the inventory says none is."""
    if value.get("gpu") != "absent":
        return None
    return [
        Problem("to be false, because nvidia_container_toolkit_gpu is absent", f".{name}", "true")
        for name in ("default_runtime", "require_gpu")
        if boolean(value.get(name), strict=False)
    ]


RULES: dict[str, Rule] = {
    "nvidia_gpu": nvidia_gpu,
    "nvidia_key": nvidia_key,
    "nvidia_repository_url": nvidia_repository_url,
    "nvidia_version": nvidia_version,
    "openpgp_fingerprint": openpgp_fingerprint,
}
