# SPDX-License-Identifier: GPL-3.0-or-later
"""Write small files into HDFS over WebHDFS, and note which the file system has acknowledged; or read all of them again.

usage: writer.py write|read NAMENODE[,NAMENODE] DIRECTORY COUNT NOTES. The second half waits for NOTES.go.
A file is acknowledged when the DataNode has answered 201, when the NameNode has closed the file. One that is refused
or cut off is written again, under its own name.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = 6
SECONDS = 240
USER = "hdfs"


def content(number: int) -> bytes:
    """Return what file number holds."""
    return f"file {number}\n".encode() * 40


def ask(method: str, url: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """Send one request; return status, Location and body."""
    parts = urllib.parse.urlsplit(url)
    link = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    try:
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        link.request(method, f"{parts.path}?{parts.query}", body, headers)
        answer = link.getresponse()
        return answer.status, answer.headers.get("Location", ""), answer.read()
    finally:
        link.close()


def write(bases: list[str], number: int) -> bool:
    """Write a file; tell whether it was acknowledged, by the NameNode that serves: it is asked first then."""
    for base in list(bases):
        if write_by(base, number):
            bases.sort(key=lambda one: one != base)
            return True
    return False


def write_by(base: str, number: int) -> bool:
    """Write a file by one NameNode."""
    try:
        status, place, _ = ask("PUT", f"{base}/{number}?op=CREATE&overwrite=true&user.name={USER}")
        return status == 307 and ask("PUT", place, content(number))[0] == 201
    except (OSError, http.client.HTTPException):
        return False


def read(bases: list[str], number: int) -> bool:
    """Tell whether a file holds what was written."""
    return any(read_by(base, number) for base in bases)


def read_by(base: str, number: int) -> bool:
    """Read a file by one NameNode."""
    status, place, _ = ask("GET", f"{base}/{number}?op=OPEN&user.name={USER}")
    return status == 307 and ask("GET", place)[2] == content(number)


def main(mode: str, namenodes: str, directory: str, count: int, notes: Path) -> int:
    """Run; the notes get a line for each acknowledged file as it happens."""
    bases = [f"http://{namenode}/webhdfs/v1{directory}" for namenode in namenodes.split(",")]
    if mode == "read":
        with ThreadPoolExecutor(AT_ONCE) as pool:
            lost = [number for number, good in enumerate(pool.map(lambda n: read(bases, n), range(count))) if not good]
        print(f"lost {lost}")
        return 1 if lost else 0
    deadline, lock, again = time.monotonic() + SECONDS, threading.Lock(), 0

    gate = notes.with_name(f"{notes.name}.go")

    def until_acknowledged(number: int) -> bool:
        nonlocal again
        while number >= count // 2 and not gate.exists():
            time.sleep(0.1)
        while not write(bases, number):
            again += 1
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        with lock, notes.open("a") as handle:
            handle.write(f"{number}\n")
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = sum(pool.map(until_acknowledged, range(count)))
    print(f"acknowledged {done} again {again}")
    return 0 if done == count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5])))
