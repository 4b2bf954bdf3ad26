# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenPGP public keys for tests, made by `gpg --quick-gen-key`; their private parts were thrown away."""

from __future__ import annotations

import base64

# rsa2048, a key that signs and has no subkey.
RSA_FINGERPRINT = "54B30CA4DC146339E252BE71B473AD80C397EF2F"
RSA = """\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mQENBGsCzr8BCADc2IeQgQvZTo3r1fs7dsEVBloLxGd5ADC7i1Kc4iNKozy8WzA5
3/ApxLWreE7fwrMthb3WZ89otk4fNMxYNeBWp/3UfpL0e6SDGAWJSFSa4ezGNAMv
Zq2eZ9ypPBDv8PoF9gcad9+RDxTnmpHm7iV56GD0pYz4DfiiQ4kjNjZqfVzeD8es
njxNZFWcoHSoogBGHhz67aYO5bpOS1QN8CpZTrbPxImsLqWBR/9ZnkPyMWawZ9B3
aXOMPaChSXks4uINp7la6m+tmw903+aAbXOZKMzR9v9MENS1Q4mNqldSxW2WFQbk
YkkNNRyVsYZmR7mWybL/4c1GFGc9wtDpZ1GpABEBAAG0GlNsaXB3YXkgcnNhIDxy
c2FAY29ycC5sYWI+iQFOBBMBCgA4FiEEVLMMpNwUYzniUr5xtHOtgMOX7y8FAmsC
zr8CGwMFCwkIBwIGFQoJCAsCBBYCAwECHgECF4AACgkQtHOtgMOX7y+asAf+LUN7
rGCf84RFk4zHcUo0PN/RVpk8+mr6tcII7HfPwhfxTCg8m7UDuSCj5vGGyLde50wM
cAD9fN6KSU3FMRtY7HspwLjsPT62pIe9XKEYixctcRE8CKVx5yQI7kCJIBlx45m1
GUCdmCAswS5hkIAQj9oMVAHudZlMYieqCRpq8tfpOGkJBApWwT0Qn3Lz0M2Gf/M3
ZoFa3LA3u2p7PRn7d8fwk2BhK0UgGTKObQGWOWpCoR2B4doikyCO6euVuq8aLZ5a
WnP1U0mMSoe3FrpZ+qkMamXc4J2tea+qgIv1D/X04TGWDGI5aDba6QgsgCp2HIq5
bdDw+R3jwuJS7tRbXQ==
=5PWc
-----END PGP PUBLIC KEY BLOCK-----
"""
# ed25519, with an ed25519 subkey.
ED25519_FINGERPRINT = "D88FADC09FAA62765E26E94C409D5972A7604439"
ED25519 = """\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawLOvxYJKwYBBAHaRw8BAQdAJyPoSgP4y14D/QdorCahu2rQalLHshtKfVmC
ooTSxR60IlNsaXB3YXkgZWQyNTUxOSA8ZWQyNTUxOUBjb3JwLmxhYj6IkAQTFggA
OBYhBNiPrcCfqmJ2XibpTECdWXKnYEQ5BQJrAs6/AhsDBQsJCAcCBhUKCQgLAgQW
AgMBAh4BAheAAAoJEECdWXKnYEQ5PhkBAIooBDdgCf/0CMKVpKe9WZfNsRQE1qNp
v4lwAdr6TJ18AQDPyRZo76/z1bXnslvW0PAn8YeiIeMohS5JEcObjnaEArgzBGsC
zr8WCSsGAQQB2kcPAQEHQISJwpiJvR8wLaZR8XiBgz/sSiBnDJB/HsxYllhy2jrk
iO8EGBYIACAWIQTYj63An6pidl4m6UxAnVlyp2BEOQUCawLOvwIbAgCBCRBAnVly
p2BEOXYgBBkWCAAdFiEEV3EgHrH+Ces9qNs/JlX+ljzBe1UFAmsCzr8ACgkQJlX+
ljzBe1V+bQD+Ns2N6Ve8/XFLuWDB0I3JNiTSrn+0qmBaLJ8uBXyh3vMA/0orF/WK
f5k3WNIMpCSQ9/Poy4SQRc9Km/cN1dohUzMLFzQBALMX16KqAM5WzdBgTHNvMVA7
JeIPQ1m1kIBEbcJZ1xMoAQCjD5OOHN/HQ0Z73hEzzlGO/m0hfSvBAYsg+ua3Zs0t
Aw==
=GVJg
-----END PGP PUBLIC KEY BLOCK-----
"""
# The sample key of RFC 9580, appendix A.3, without what follows the primary key.
V6_FINGERPRINT = "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"
V6 = bytes.fromhex("c62a0663877fe31b00000020f94da7bb48d60a61e567706a6587d0331999bb9d891a08242ead84543df895a3")


def binary(armoured: str) -> bytes:
    """Return what an armoured key holds."""
    return base64.b64decode("".join(armoured.split("\n")[2:-3]))


def armour(data: bytes, kind: str = "PUBLIC KEY BLOCK") -> str:
    """Return data in an armour without checksum."""
    return f"-----BEGIN PGP {kind}-----\n\n{base64.b64encode(data).decode()}\n-----END PGP {kind}-----\n"
