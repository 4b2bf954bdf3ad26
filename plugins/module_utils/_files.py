# SPDX-License-Identifier: GPL-3.0-or-later
"""Files, directories and links as wanted state: compare, show, write atomically, keep what was there before.

Nothing here knows Ansible's module object. Paths are absolute strings; modes are integers (0o644).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import grp
import json
import os
import pwd
import shutil
import stat
import tempfile
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

STATE_DIR = "/var/lib/slipway"
SECRET_NOTE = "(secret content, not shown)\n"
NEW_SECRET_NOTE = "(new secret content, not shown)\n"
# Longer than the longest that a module of ours waits for a command.
LOCK_SECONDS = 900.0
LOCK_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedFile:
    """One path and what must be there.

    kind is file, directory, link or absent; content is bytes for a file, the target path for a link.
    secret: the content never appears in a diff. owner and group are names or numbers as strings.
    """

    path: str
    kind: str = "file"
    content: bytes = b""
    target: str = ""
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    secret: bool = False


@dataclasses.dataclass
class Change:
    """What was (or, in check mode, would be) done to one path, and a diff entry without secrets."""

    path: str
    action: str
    diff: dict[str, str]


class Ledger:
    """What an owner has put on this host: paths, packages and holds; the base for removal.

    Stored as /var/lib/slipway/ledger/<owner>.json, readable by root only. `pending` holds the paths whose
    consequences (refresh commands) have not run yet, so that an interrupted run is finished by the next; `secrets`
    holds those whose content no diff shows, whatever their mode.
    """

    def __init__(self, *, owner: str, state_dir: str = STATE_DIR) -> None:
        self.owner = owner
        self.state_dir = state_dir
        self.path = os.path.join(state_dir, "ledger", f"{owner}.json")
        self._data: dict[str, list[str]] = {}
        self._stored: dict[str, list[str]] = {}

    def load(self) -> None:
        """Read the ledger; a missing one is empty. Raises HostError when it is not JSON."""
        try:
            with open(self.path, encoding="utf-8") as handle:
                self._data = json.load(handle)
            if not isinstance(self._data, dict):
                raise ValueError("no object")
        except FileNotFoundError:
            self._data = {}
        except ValueError as exc:
            raise HostError(f"{self.path} is not JSON ({exc}): move it away and run again") from exc
        self._stored = json.loads(json.dumps(self._data))

    def get(self, key: str) -> list[str]:
        """Return the entries under paths, directories, secrets, packages, held or pending, in order."""
        return list(self._data.get(key, []))

    def set(self, key: str, values: t.Iterable[str]) -> None:
        """Replace the entries of one key; an empty list removes the key."""
        kept = list(dict.fromkeys(values))
        if kept:
            self._data[key] = kept
        else:
            self._data.pop(key, None)

    def save(self) -> None:
        """Write the ledger if it differs from what is stored; an empty ledger is removed.

        Raises HostError when it can't be written.
        """
        if self._data == self._stored:
            return
        with one_sentence(self.path):
            if self._data:
                make_private_dirs(self.state_dir, os.path.dirname(self.path))
                write_atomic(path=self.path, content=json.dumps(self._data, indent=1).encode(), mode=0o600)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)
                remove_empty_directories(os.path.dirname(self.path), top=self.state_dir)
        self._stored = json.loads(json.dumps(self._data))

    def backup_path(self, path: str) -> str:
        """Return where the original of a path, which was there before us, is kept."""
        return os.path.join(self.state_dir, "originals", self.owner, path.lstrip("/"))


@contextlib.contextmanager
def one_sentence(path: str) -> t.Iterator[None]:
    """Turn what the operating system refuses (a full disk, a read-only mount) into a HostError that names the path."""
    try:
        yield
    except OSError as exc:
        raise HostError(f"{path} can't be changed: {exc.strerror or exc}") from exc


def make_private_dirs(*paths: str) -> None:
    """Create directories that only root may enter (0700)."""
    for path in paths:
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, 0o700)


@contextlib.contextmanager
def alone(
    directory: str, *, seconds: float = LOCK_SECONDS, pause: t.Callable[[float], None] = time.sleep
) -> t.Iterator[None]:
    """Hold a directory's lock; HostError where another process holds it for too long.

    A controller that dies does not end what it has started: the module goes on, and the next run meets it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + seconds
        while not _lock(handle):
            if time.monotonic() >= deadline:
                raise HostError(
                    f"another run has been working on this host for {seconds:g} seconds: it needs to end first "
                    f"(`fuser {directory}` names it)"
                )
            pause(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def user_id(name: str) -> int:
    """Return the uid of a name or number; raises HostError for a name this host does not know."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as exc:
        raise HostError(f"user {name!r} does not exist on this host") from exc


def group_id(name: str) -> int:
    """Return the gid of a name or number; raises HostError for a name this host does not know."""
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as exc:
        raise HostError(f"group {name!r} does not exist on this host") from exc


def write_atomic(*, path: str, content: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Write bytes to a path so that a reader sees the old or the new file, never a part.

    The temporary file is created 0600 in the same directory, so a secret is never readable by others;
    rename(2) replaces a link rather than following it.
    """
    directory = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".slipway-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if os.geteuid() == 0:
            os.chown(temporary, uid, gid)
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def describe(path: str, *, secret: bool = False) -> str:
    """Return what a path is now as text for a diff: kind, mode and owner first, then the content.

    What others may not read on the host is not shown either, whether or not it is declared secret.
    """
    info = _lstat(path)
    if info is None:
        return ""
    if stat.S_ISLNK(info.st_mode):
        return f"link to {os.readlink(path)}\n"
    head = f"mode {stat.S_IMODE(info.st_mode):04o} owner {info.st_uid}:{info.st_gid}\n"
    if stat.S_ISDIR(info.st_mode):
        return "directory " + head
    if not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for a writer
        return "device, socket or pipe " + head
    with open(path, "rb") as handle:
        hidden = secret or not info.st_mode & stat.S_IROTH
        return head + (SECRET_NOTE if hidden else handle.read().decode("utf-8", "replace"))


def _describe_wanted(wanted: WantedFile) -> str:
    if wanted.kind == "absent":
        return ""
    if wanted.kind == "link":
        return f"link to {wanted.target}\n"
    head = f"mode {wanted.mode:04o} owner {wanted.owner}:{wanted.group}\n"
    with contextlib.suppress(HostError):  # in check mode the user may not exist yet
        head = f"mode {wanted.mode:04o} owner {user_id(wanted.owner)}:{group_id(wanted.group)}\n"
    if wanted.kind == "directory":
        return "directory " + head
    hidden = wanted.secret or not wanted.mode & stat.S_IROTH
    return head + (NEW_SECRET_NOTE if hidden else wanted.content.decode("utf-8", "replace"))


def _attributes_match(info: os.stat_result, wanted: WantedFile) -> bool:
    return (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (
        wanted.mode,
        user_id(wanted.owner),
        group_id(wanted.group),
    )


def matches(wanted: WantedFile) -> bool:
    """Tell whether a path is exactly as wanted: kind, content, mode, owner and group."""
    info = _lstat(wanted.path)
    if wanted.kind == "absent":
        return info is None
    if info is None:
        return False
    if wanted.kind == "link":
        return stat.S_ISLNK(info.st_mode) and os.readlink(wanted.path) == wanted.target
    try:
        same = _attributes_match(info, wanted)
    except HostError:
        return False
    if wanted.kind == "directory":
        return stat.S_ISDIR(info.st_mode) and same
    if not stat.S_ISREG(info.st_mode) or not same:
        return False
    with open(wanted.path, "rb") as handle:
        return handle.read() == wanted.content


def missing_parents(path: str) -> list[str]:
    """Return the directories above a path that do not exist, outermost first."""
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent and not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing


def _keep_original(ledger: Ledger, path: str) -> None:
    """Copy what is at a path and is not ours to the originals, once; whole or not at all, also when killed."""
    info = _lstat(path)
    backup = ledger.backup_path(path)
    if info is None or stat.S_ISDIR(info.st_mode) or os.path.lexists(backup):
        return
    make_private_dirs(ledger.state_dir, os.path.join(ledger.state_dir, "originals"))
    os.makedirs(os.path.dirname(backup), mode=0o700, exist_ok=True)
    partial = f"{backup}.slipway-new"
    remove_path(partial)
    shutil.copy2(path, partial, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chown(partial, info.st_uid, info.st_gid)
        os.chmod(partial, stat.S_IMODE(info.st_mode))  # chown(2) clears set-user-ID
    os.rename(partial, backup)


def _write(wanted: WantedFile) -> None:
    if wanted.kind == "directory":
        os.makedirs(wanted.path, exist_ok=True)
        os.chown(wanted.path, user_id(wanted.owner), group_id(wanted.group))
        os.chmod(wanted.path, wanted.mode)
    elif wanted.kind == "link":
        temporary = f"{wanted.path}.slipway-new"
        remove_path(temporary)
        os.symlink(wanted.target, temporary)
        os.rename(temporary, wanted.path)
    elif wanted.kind == "absent":
        remove_path(wanted.path)
    else:
        write_atomic(
            path=wanted.path,
            content=wanted.content,
            mode=wanted.mode,
            uid=user_id(wanted.owner),
            gid=group_id(wanted.group),
        )


def remove_path(path: str) -> None:
    """Remove a file, a link or an empty directory; what is not there is no error, a full directory stays."""
    info = _lstat(path)
    if info is None:
        return
    if stat.S_ISDIR(info.st_mode):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    else:
        os.unlink(path)


def remove_empty_directories(path: str, *, top: str) -> None:
    """Remove a directory and those above it, up to and including top, as far as they are empty."""
    with contextlib.suppress(OSError):
        while os.path.commonpath([path, top]) == top:
            os.rmdir(path)
            path = os.path.dirname(path)


def _refuse_obstacle(wanted: WantedFile, info: os.stat_result | None) -> None:
    """Raise HostError for what is in the way and not ours to replace: what it holds could not be put back."""
    if info is None:
        return
    found = ""
    if stat.S_ISDIR(info.st_mode):
        if wanted.kind in ("file", "link"):
            found = "a directory"
        elif wanted.kind == "absent" and os.listdir(wanted.path):
            found = "a directory with something in it"
    elif wanted.kind == "directory":
        found = "not a directory"
    elif not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
        found = "a device, socket or pipe"
    if found:
        needs = "absent" if wanted.kind == "absent" else f"a {wanted.kind}"
        raise HostError(f"{wanted.path} is {found}: move it away, it has to be {needs}")


def ensure(wanted: WantedFile, *, ledger: Ledger, check: bool) -> Change | None:
    """Bring one path to its wanted state; return the change, or None when nothing was to do.

    A file that was there before and is not in the ledger is kept under originals first.
    Raises HostError when a directory is in the way of a file or the other way round, or the host refuses.
    """
    if matches(wanted):
        if not check and wanted.path in ledger.get("paths"):
            _note_secret(wanted, ledger)
        return None
    info = _lstat(wanted.path)
    _refuse_obstacle(wanted, info)
    hidden = wanted.secret or wanted.path in ledger.get("secrets")
    diff = {
        "before_header": wanted.path,
        "after_header": wanted.path,
        "before": describe(wanted.path, secret=hidden),
        "after": _describe_wanted(wanted),
    }
    if not check:
        with one_sentence(wanted.path):
            _put(wanted, ledger=ledger, existed=info is not None)
    return Change(wanted.path, "removed" if wanted.kind == "absent" else "written", diff)


def _note_secret(wanted: WantedFile, ledger: Ledger) -> None:
    others = [path for path in ledger.get("secrets") if path != wanted.path]
    ledger.set("secrets", [*others, wanted.path] if wanted.secret else others)


def _put(wanted: WantedFile, *, ledger: Ledger, existed: bool) -> None:
    if wanted.path not in ledger.get("paths"):
        _keep_original(ledger, wanted.path)
    parents = missing_parents(wanted.path) if wanted.kind != "absent" else []
    made = parents + ([wanted.path] if wanted.kind == "directory" and not existed else [])
    ledger.set("directories", ledger.get("directories") + made)
    if wanted.kind != "directory":
        ledger.set("paths", [*ledger.get("paths"), wanted.path])
        ledger.set("pending", [*ledger.get("pending"), wanted.path])
        _note_secret(wanted, ledger)
    # The ledger is on disk before the file is: a run killed in between is still undone completely.
    ledger.save()
    for parent in parents:
        os.mkdir(parent, 0o755)
        os.chmod(parent, 0o755)
    _write(wanted)


def forget(path: str, *, ledger: Ledger, check: bool) -> Change | None:
    """Undo one path of the ledger: put the original back, or remove what we wrote. None when nothing changes."""
    backup = ledger.backup_path(path)
    has_backup = os.path.lexists(backup)
    before = describe(path, secret=path in ledger.get("secrets"))
    after = describe(backup) if has_backup else ""
    if not check:
        with one_sentence(path):
            _undo(path, backup=backup if has_backup else "", ledger=ledger)
    if before == after and not has_backup:
        return None
    diff = {"before_header": path, "after_header": path, "before": before, "after": after}
    return Change(path, "restored" if has_backup else "removed", diff)


def _undo(path: str, *, backup: str, ledger: Ledger) -> None:
    ledger.set("pending", [*ledger.get("pending"), path])
    ledger.save()
    if backup:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _restore(backup, path)
    else:
        remove_path(path)
    for key in ("paths", "secrets"):
        ledger.set(key, [known for known in ledger.get(key) if known != path])
    ledger.save()
    if backup:
        # Last: a run killed before this line restores once more; without the backup it would remove the original.
        os.unlink(backup)
        remove_empty_directories(os.path.dirname(backup), top=ledger.state_dir)


def _restore(backup: str, path: str) -> None:
    info = os.lstat(backup)
    if stat.S_ISLNK(info.st_mode):
        remove_path(path)
        os.symlink(os.readlink(backup), path)
    else:
        with open(backup, "rb") as handle:
            content = handle.read()
        write_atomic(path=path, content=content, mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid)


def prune_directories(
    *, ledger: Ledger, keep: t.Collection[str], check: bool, gone: t.Iterable[str] = ()
) -> list[Change]:
    """Remove directories that we made, deepest first, when they are empty and no longer wanted.

    gone: paths that a real run would have removed by now, for check mode.
    """
    made = ledger.get("directories")
    missing = set(gone) if check else set()
    changes = []
    for path in sorted(made, key=len, reverse=True):
        info = _lstat(path)
        if path in keep or info is None or not stat.S_ISDIR(info.st_mode):
            continue
        if any(os.path.join(path, name) not in missing for name in os.listdir(path)):
            continue
        before = describe(path)
        if not check:
            remove_path(path)
            if os.path.lexists(path):  # a mount point
                continue
        missing.add(path)
        diff = {"before_header": path, "after_header": path, "before": before, "after": ""}
        changes.append(Change(path, "removed", diff))
    if not check:
        ledger.set("directories", [path for path in made if os.path.isdir(path)])
    return changes
