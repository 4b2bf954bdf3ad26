# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of an OpenPGP public key, armoured or not, without gpg, which a bare host need not have.

Sections are RFC 9580's; what RFC 4880 says of version 4 is the same.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re
import typing as t

# Section 6.2; whatever stands around a block is no part of it.
BLOCK = re.compile(
    r"^-----BEGIN PGP (?P<kind>[A-Z ,/0-9]+)-----[ \t]*$(?P<body>.*?)^-----END PGP (?P=kind)-----[ \t]*$", re.M | re.S
)
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ")
# Section 5: packet type identifiers.
SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY = 5, 6, 7


class KeyTextError(ValueError):
    """A text is not one public key; the message completes "it is …"."""


@dataclasses.dataclass(frozen=True)
class Packet:
    """One packet: its type identifier and its body."""

    kind: int
    body: bytes


def fingerprint(data: bytes) -> str:
    """Return the fingerprint of the one primary key in armoured or binary data: hex digits in upper case.

    Raises KeyTextError for anything else than exactly one public key with its subkeys.
    """
    packets = list(_packets(data if data[:1] and data[0] & 0x80 else dearmor(data.decode(errors="replace"))))
    if any(packet.kind in (SECRET_KEY, SECRET_SUBKEY) for packet in packets):
        raise KeyTextError("a private key")
    primary = [packet.body for packet in packets if packet.kind == PUBLIC_KEY]
    if not primary:
        raise KeyTextError("without a key")
    if len(primary) > 1:
        raise KeyTextError(f"{len(primary)} keys")
    return _of_body(primary[0])


def dearmor(text: str) -> bytes:
    """Return the packets of the armoured public keys in a text; raises KeyTextError for another kind of block."""
    blocks = list(BLOCK.finditer(text.replace("\r\n", "\n")))
    if not blocks:
        begun = "-----BEGIN PGP PUBLIC KEY BLOCK-----" in text
        raise KeyTextError("an armoured key without its end" if begun else "no armoured key")
    for block in blocks:
        if block["kind"] != "PUBLIC KEY BLOCK":
            private = "PRIVATE" in block["kind"]
            raise KeyTextError("a private key" if private else f"a PGP {block['kind'].lower()}, no key")
    return b"".join(_block(block["body"]) for block in blocks)


def _block(body: str) -> bytes:
    lines = [line.strip() for line in body.strip().splitlines()]
    data = [line for line in lines if line and not HEADER.match(line)]
    checksum = data.pop()[1:] if data and re.fullmatch("=[A-Za-z0-9+/]{4}", data[-1]) else ""
    try:
        raw = base64.b64decode("".join(data), validate=True)
    except binascii.Error as exc:
        raise KeyTextError("an armoured key with characters that are no base64") from exc
    # The checksum is optional (section 6.1). One that is there and does not fit means a text that lost something on
    # its way, which apt would find only on the host.
    if checksum and int.from_bytes(base64.b64decode(checksum)) != crc24(raw):
        raise KeyTextError("a damaged key: its checksum does not fit")
    return raw


def crc24(data: bytes) -> int:
    """Return the checksum of an armour (section 6.1.1)."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def _packets(data: bytes) -> t.Iterator[Packet]:
    """Read packets in both formats (section 4.2)."""
    place = 0
    while place < len(data):
        head = data[place]
        if not head & 0x80:
            raise KeyTextError("no OpenPGP data")
        if head & 0x40:
            kind, (length, start) = head & 0x3F, _new_length(data, place + 1)
        else:
            kind, (length, start) = head >> 2 & 0x0F, _old_length(data, place + 1, head & 3)
        place = start + length
        if start > len(data) or place > len(data):
            raise KeyTextError("a key that is cut off")
        yield Packet(kind, data[start:place])


def _new_length(data: bytes, place: int) -> tuple[int, int]:
    """Return a body's length and where it starts (section 4.2.1)."""
    first = data[place] if place < len(data) else 0
    if first < 192:
        return first, place + 1
    if first < 224:
        return (first - 192 << 8) + int.from_bytes(data[place + 1 : place + 2]) + 192, place + 2
    if first == 255:
        return int.from_bytes(data[place + 1 : place + 5]), place + 5
    raise KeyTextError("a key in parts of unknown length, which no key may have")


def _old_length(data: bytes, place: int, kind: int) -> tuple[int, int]:
    """Return a body's length and where it starts (section 4.2.2)."""
    if kind == 3:
        return len(data) - place, place
    size = 1 << kind
    return int.from_bytes(data[place : place + size]), place + size


def _of_body(body: bytes) -> str:
    """Return the fingerprint of a key packet's body (section 5.5.4)."""
    version = body[0] if body else 0
    if version == 4:
        found = hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body, usedforsecurity=False)
    elif version == 6:
        found = hashlib.sha256(b"\x9b" + len(body).to_bytes(4) + body)
    else:
        raise KeyTextError(f"a key of version {version}, not 4 or 6")
    return found.hexdigest().upper()
