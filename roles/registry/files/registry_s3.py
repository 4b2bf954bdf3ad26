#!/usr/bin/python3
# Managed by slipway.platform.registry. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the bucket that holds the registry's images whether it can be used; say in one sentence what is wrong.

The bucket and its keys come as JSON by standard input, or from the file that --config names. With --write an object is
also written, and deleted again. Exit status 1, with the sentence on standard output, when something is wrong.

Only the standard library, Python 3.11 or later. Signs as AWS documents it: Signature Version 4, in headers.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import hmac
import http.client
import json
import re
import ssl
import sys
import typing as t
import urllib.parse
import uuid

TIMEOUT = 10
REASONS = {
    "InvalidAccessKeyId": "does not know the access key (registry_s3_access_key)",
    "SignatureDoesNotMatch": "refuses the secret key (registry_s3_secret_key)",
    "NoSuchBucket": "has no bucket {name} (registry_s3_bucket)",
    "AccessDenied": "does not let the access key {act} in bucket {name}",
    "AuthorizationHeaderMalformed": "wants another region than {region} (registry_s3_region)",
    "PermanentRedirect": "wants another region than {region} (registry_s3_region)",
    "RequestTimeTooSkewed": "has another time than this machine: look at both clocks",
}


class StorageError(Exception):
    """What is wrong, in one sentence without a secret."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Where the images are. endpoint is a URL, empty for Amazon's own; ca is PEM text, empty for the system's trust."""

    endpoint: str
    region: str
    name: str
    prefix: str
    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    ca: str = ""
    path_style: bool = True

    @property
    def url(self) -> urllib.parse.SplitResult:
        """The endpoint, taken apart."""
        return urllib.parse.urlsplit(self.endpoint or f"https://s3.{self.region}.amazonaws.com")

    @property
    def host(self) -> str:
        """Host and port as they stand in the request."""
        return self.url.netloc if self.path_style else f"{self.name}.{self.url.netloc}"

    def path(self, key: str) -> str:
        """Return the encoded path of an object, or with an empty key of the bucket."""
        return urllib.parse.quote(f"/{self.name}/{key}" if self.path_style else f"/{key}", safe="/-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def headers(bucket: Bucket, method: str, path: str, query: str, body: bytes, now: datetime.datetime) -> dict[str, str]:
    """Return the headers of a signed request; the query is encoded and sorted."""
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    known = {"host": bucket.host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(sorted(known))
    lines = "".join(f"{name}:{known[name]}\n" for name in sorted(known))
    request = "\n".join([method, path, query, lines, names, digest])
    scope = f"{day}/{bucket.region}/s3/aws4_request"
    wanted = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{bucket.secret_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, wanted).hex()
    credential = f"Credential={bucket.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**known, "Authorization": f"AWS4-HMAC-SHA256 {credential}"}


def _connection(bucket: Bucket) -> http.client.HTTPConnection:
    name, port = bucket.host.partition(":")[0], bucket.url.port
    if bucket.url.scheme == "http":
        return http.client.HTTPConnection(name, port, timeout=TIMEOUT)
    context = ssl.create_default_context(cadata=bucket.ca or None)
    if hasattr(ssl, "VERIFY_X509_STRICT"):
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the registry is not strict either
    return http.client.HTTPSConnection(name, port, timeout=TIMEOUT, context=context)


def ask(bucket: Bucket, method: str, key: str = "", query: str = "", body: bytes = b"", act: str = "") -> None:
    """Send a request; raises StorageError unless it is answered well. act is what it is for, as a verb."""
    path = bucket.path(key)
    signed = headers(bucket, method, path, query, body, datetime.datetime.now(datetime.UTC))
    where = f"the object storage {bucket.url.scheme}://{bucket.host}"
    connection = _connection(bucket)
    try:
        connection.request(method, f"{path}?{query}" if query else path, body=body, headers=signed)
        answer = connection.getresponse()
        text = answer.read(65536).decode("utf-8", "replace")
    except ssl.SSLCertVerificationError as exc:
        reason = f"shows a certificate that is not trusted (registry_s3_ca_certificate): {exc.verify_message}"
        raise StorageError(f"{where} {reason}") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise StorageError(f"{where} does not answer: {exc}") from exc
    finally:
        connection.close()
    if answer.status >= 300:
        raise StorageError(f"{where} {_reason(bucket, answer.status, text, act)}")


def _reason(bucket: Bucket, status: int, text: str, act: str) -> str:
    found = re.search(r"<Code>([A-Za-z0-9.]{1,80})</Code>", text)
    code = found.group(1) if found else ""
    if code in REASONS:
        return REASONS[code].format(name=bucket.name, region=bucket.region, act=act)
    return f"answers {status} {code}".rstrip() + f" when asked to {act} in bucket {bucket.name}"


def check(bucket: Bucket, *, write: bool) -> None:
    """Ask for what the registry will ask for; raises StorageError."""
    prefix = urllib.parse.quote(bucket.prefix + "/" if bucket.prefix else "", safe="-_.~")
    ask(bucket, "GET", query=f"list-type=2&max-keys=1&prefix={prefix}", act="list")
    if write:
        key = "/".join(filter(None, [bucket.prefix, f".slipway-check-{uuid.uuid4().hex}"]))
        ask(bucket, "PUT", key, body=b"slipway\n", act="write")
        ask(bucket, "GET", key, act="read")
        ask(bucket, "DELETE", key, act="delete")


def main(argv: t.Sequence[str] | None = None) -> int:
    """Ask; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", help="file with the bucket as JSON, instead of standard input")
    parser.add_argument("--write", action="store_true", help="write an object, and delete it again")
    args = parser.parse_args(argv)
    with open(args.config or 0, encoding="utf-8", closefd=bool(args.config)) as handle:
        bucket = Bucket(**json.load(handle))
    try:
        check(bucket, write=args.write)
    except StorageError as exc:
        print(exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
