# SPDX-License-Identifier: GPL-3.0-or-later
"""Single keys of JSON files in users' homes as wanted state: docker's config.json belongs to its user, not to us.

Everything in a home is read and written by a child process with that user's own identity, and no component of the path
may be a link: a user who prepares links or races can only reach what he could reach anyway. (What happens otherwise:
ansible.posix changelog fragment 759, root following a link in a home.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pwd
import stat
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._files import SECRET_NOTE, Change, Ledger

LEDGER_KEY = "json_keys"
# The largest file that is read (bytes): a config.json is a few kilobytes.
MAX_SIZE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Json = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedKey:
    """One key of a JSON object in a user's home.

    path is relative to the home; keys leads to the value from the outermost object inwards. secret: the value appears
    in no diff.
    """

    user: str
    path: str
    keys: tuple[str, ...]
    value: t.Any
    secret: bool = False

    @property
    def label(self) -> str:
        """How people name it: ``~root/.docker/config.json proxies.default``."""
        return f"~{self.user}/{self.path} {'.'.join(self.keys)}"


@dataclasses.dataclass
class Entry:
    """What the ledger knows of a key that we wrote: what was there before, and what we made for it.

    original is a list of one value, or empty where the key was not there; depth is the number of outer objects that
    were there; made are the directories and the file that we made, relative to the home, outermost first; wrote is a
    digest of our value.
    """

    user: str
    path: str
    keys: tuple[str, ...]
    original: list[t.Any]
    depth: int
    made: list[str]
    wrote: str
    secret: bool = False

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read an entry as the ledger holds it."""
        data = json.loads(text)
        return cls(**{**data, "keys": tuple(data["keys"])})

    def text(self) -> str:
        """The entry as the ledger holds it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def identity(self) -> tuple[str, str, tuple[str, ...]]:
        """What makes two entries the same key."""
        return self.user, self.path, self.keys


def digest(value: t.Any) -> str:
    """A digest that is equal for equal JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def lookup(data: Json, keys: t.Sequence[str]) -> list[t.Any]:
    """The value that keys lead to, as a list of one; empty where it is not there."""
    here: t.Any = data
    for key in keys:
        if not isinstance(here, dict) or key not in here:
            return []
        here = here[key]
    return [here]


def depth(data: Json, keys: t.Sequence[str]) -> int:
    """How many of the outer objects of a key are there."""
    return sum(1 for length in range(1, len(keys)) if lookup(data, keys[:length]))


def put(data: Json, keys: t.Sequence[str], value: t.Any) -> None:
    """Set a value, making outer objects; raises HostError when an outer value is no object."""
    for position, key in enumerate(keys[:-1]):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise HostError(f"{'.'.join(keys[: position + 1])} is {type(data).__name__}: it needs to be an object")
    data[keys[-1]] = value


def take(data: Json, entry: Entry) -> None:
    """Undo put: give back the original, or remove the key and the outer objects that we made, if they are empty."""
    if entry.original:
        put(data, entry.keys, entry.original[0])
        return
    parents = [lookup(data, entry.keys[:length])[0] for length in range(len(entry.keys))]
    del parents[-1][entry.keys[-1]]
    for length in range(len(entry.keys) - 1, entry.depth, -1):
        if not parents[length]:
            del parents[length - 1][entry.keys[length - 1]]


# --- In the home, with the user's identity -----------------------------------------------------------------------


@dataclasses.dataclass
class _Home:
    """One file below a home, reached without following a link."""

    home: str
    path: str
    made: list[str] = dataclasses.field(default_factory=list)

    @property
    def _parts(self) -> list[str]:
        return self.path.split("/")

    def directory(self, *, make: bool) -> int | None:
        """Open the directory that holds the file; None where it is not there and shall not be made."""
        here = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for position, name in enumerate(self._parts[:-1]):
            above = here
            try:
                here = self._enter(above, name, "/".join(self._parts[: position + 1]), make=make)
            except FileNotFoundError:
                return None
            finally:
                os.close(above)
        return here

    def _enter(self, above: int, name: str, path: str, *, make: bool) -> int:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
                self.made.append(path)
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise HostError(f"{self.home}/{path} is not a directory, or a link: it needs to be a directory") from exc

    def read(self) -> tuple[Json, int] | None:
        """The file's object and mode; None where it is not there. Raises HostError where it is no such file."""
        folder = self.directory(make=False)
        if folder is None:
            return None
        full = f"{self.home}/{self.path}"
        try:
            handle = os.open(self._parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except PermissionError as exc:
            raise HostError(f"{full} can't be read by its user: it needs to belong to that user") from exc
        except OSError as exc:
            raise HostError(f"{full} is a link: it needs to be a file") from exc
        finally:
            os.close(folder)
        with os.fdopen(handle, "rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise HostError(f"{full} is not a file: move it away")
            return _parse(stream.read(MAX_SIZE + 1), full), stat.S_IMODE(info.st_mode)

    def write(self, data: Json, mode: int) -> None:
        """Replace the file by one rename(2) in its own directory."""
        folder = self.directory(make=True)
        assert folder is not None
        name, temporary = self._parts[-1], f".slipway-{os.getpid()}"
        try:
            handle = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(data, stream, indent="\t", ensure_ascii=False)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
                os.fchmod(stream.fileno(), mode)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise HostError(f"{self.home}/{self.path} can't be written: {exc.strerror}") from exc
        finally:
            os.close(folder)

    def remove(self, made: t.Sequence[str]) -> None:
        """Remove what we made, innermost first, where it is empty."""
        for path in sorted(made, key=len, reverse=True):
            folder = _Home(self.home, path).directory(make=False)
            if folder is None:
                continue
            with contextlib.suppress(OSError):
                if path == self.path:
                    os.unlink(path.rsplit("/", 1)[-1], dir_fd=folder)
                else:
                    os.rmdir(path.rsplit("/", 1)[-1], dir_fd=folder)
            os.close(folder)


def _parse(content: bytes, path: str) -> Json:
    if len(content) > MAX_SIZE:
        raise HostError(f"{path} is larger than {MAX_SIZE} bytes: that is no configuration")
    try:
        data = json.loads(content.decode() or "{}")
    except ValueError as exc:
        raise HostError(f"{path} is not JSON: mend it or move it away") from exc
    if not isinstance(data, dict):
        raise HostError(f"{path} holds no JSON object: mend it or move it away")
    return data


def as_user(account: pwd.struct_passwd, work: t.Callable[[], t.Any]) -> t.Any:
    """Return what work returns (JSON), run in a child process that has the account's identity for good.

    Raises HostError with the child's own words.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - coverage does not follow the fork
        os.close(read_end)
        os._exit(_child(account, work, write_end))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer:
        raise HostError(f"the work in the home of {account.pw_name} ended without an answer")
    result = json.loads(answer)
    if "error" in result:
        raise HostError(result["error"])
    return result["value"]


def _child(account: pwd.struct_passwd, work: t.Callable[[], t.Any], write_end: int) -> int:  # pragma: no cover
    try:
        if os.geteuid() == 0 and account.pw_uid != 0:
            os.initgroups(account.pw_name, account.pw_gid)
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        os.umask(0o077)
        answer = {"value": work()}
    except HostError as exc:
        answer = {"error": str(exc)}
    except Exception as exc:
        answer = {"error": f"{account.pw_name}: {type(exc).__name__}: {exc}"}
    with os.fdopen(write_end, "wb") as stream:
        stream.write(json.dumps(answer).encode())
    return 0


# --- Wanted state ------------------------------------------------------------------------------------------------


def account_of(user: str) -> pwd.struct_passwd:
    """The account of a user; raises HostError for one that this host does not know or that has no home."""
    try:
        account = pwd.getpwnam(user)
    except KeyError as exc:
        raise HostError(f"user {user!r} does not exist on this host") from exc
    if not os.path.isdir(account.pw_dir):
        raise HostError(f"user {user!r} has no home: {account.pw_dir} is not a directory")
    return account


def _entries(ledger: Ledger) -> list[Entry]:
    return [Entry.parse(text) for text in ledger.get(LEDGER_KEY)]


def _store(ledger: Ledger, entries: t.Iterable[Entry]) -> None:
    ledger.set(LEDGER_KEY, [entry.text() for entry in entries])
    ledger.save()


def ensure(wanted: WantedKey, *, ledger: Ledger, check: bool) -> Change | None:
    """Bring one key to its value; return the change, or None when nothing was to do.

    Raises HostError where the file is no JSON object, a link, or not the user's.
    """
    account = account_of(wanted.user)
    home = _Home(account.pw_dir, wanted.path)
    found = as_user(account, home.read)
    data, mode = found or ({}, 0o600)
    present = lookup(data, wanted.keys)
    if present and digest(present[0]) == digest(wanted.value):
        return None
    if not check:
        known = _entries(ledger)
        identity = (wanted.user, wanted.path, wanted.keys)
        entry = next((item for item in known if item.identity == identity), None) or Entry(
            wanted.user, wanted.path, wanted.keys, present, depth(data, wanted.keys), [], "", wanted.secret
        )
        if found is None:
            entry.made = list(dict.fromkeys([*entry.made, *_missing(account, home), wanted.path]))
        entry.wrote = digest(wanted.value)
        # On disk before the key is: a run killed in between is still undone completely.
        _store(ledger, [*(item for item in known if item.identity != identity), entry])
        put(data, wanted.keys, wanted.value)
        as_user(account, lambda: home.write(data, mode))
    return _change(wanted.label, present, [wanted.value], "written", secret=wanted.secret)


def _missing(account: pwd.struct_passwd, home: _Home) -> list[str]:
    """Directories below the home that writing will make."""
    parts = home.path.split("/")[:-1]
    paths = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    return [path for path in paths if as_user(account, functools.partial(_absent, account.pw_dir, path))]


def _absent(home: str, path: str) -> bool:
    folder = _Home(home, f"{path}/x").directory(make=False)
    if folder is not None:
        os.close(folder)
    return folder is None


def forget(entry: Entry, *, ledger: Ledger, check: bool) -> Change | None:
    """Undo one key, unless somebody has changed it since; None when nothing is to do."""
    change = None
    try:
        account = account_of(entry.user)
    except HostError:  # the user is gone, and the home with it
        account = None
    if account is not None:
        home = _Home(account.pw_dir, entry.path)
        found = as_user(account, home.read)
        present = lookup(found[0], entry.keys) if found else []
        if found and present and digest(present[0]) == entry.wrote:
            label = f"~{entry.user}/{entry.path} {'.'.join(entry.keys)}"
            change = _change(label, present, entry.original, "removed", secret=entry.secret)
            if not check:
                _undo(account, home, entry, found)
    if not check:
        _store(ledger, [item for item in _entries(ledger) if item.identity != entry.identity])
    return change


def _undo(account: pwd.struct_passwd, home: _Home, entry: Entry, found: tuple[Json, int]) -> None:
    data, mode = found
    take(data, entry)
    if not data and home.path in entry.made:
        as_user(account, lambda: home.remove(entry.made))
    else:
        as_user(account, lambda: home.write(data, mode))


def _change(label: str, before: list[t.Any], after: list[t.Any], action: str, *, secret: bool) -> Change:
    def text(value: list[t.Any]) -> str:
        return (SECRET_NOTE if secret else json.dumps(value[0], indent=1, sort_keys=True) + "\n") if value else ""

    diff = {"before_header": label, "after_header": label, "before": text(before), "after": text(after)}
    return Change(label, action, diff)


def apply(wanted: t.Sequence[WantedKey], *, ledger: Ledger, check: bool) -> list[Change | None]:
    """Undo an owner's keys that are no longer wanted and bring the others to their values; the changes, in order."""
    listed = {(item.user, item.path, item.keys) for item in wanted}
    dropped = [entry for entry in _entries(ledger) if entry.identity not in listed]
    return [
        *(forget(entry, ledger=ledger, check=check) for entry in dropped),
        *(ensure(item, ledger=ledger, check=check) for item in wanted),
    ]
