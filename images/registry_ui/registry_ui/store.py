# SPDX-License-Identifier: GPL-3.0-or-later
"""The index: one SQLite file that may be deleted at any time.

A scan fills it again; only the times of pushes and pulls, and undo, are lost.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import typing as t
import zlib
from pathlib import Path

from registry_ui.manifests import Manifest

# Another number makes an older file be thrown away.
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE repository (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, tags INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0, exclusive INTEGER NOT NULL DEFAULT 0,
    pushed REAL, pulled REAL, pulls INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE manifest (
    id INTEGER PRIMARY KEY, repository INTEGER NOT NULL REFERENCES repository ON DELETE CASCADE,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL,
    size INTEGER NOT NULL, platforms TEXT NOT NULL, created REAL, artifact_type TEXT NOT NULL,
    subject TEXT NOT NULL, content BLOB NOT NULL, config BLOB, seen REAL NOT NULL, UNIQUE (repository, digest)
);
CREATE INDEX manifest_subject ON manifest (repository, subject) WHERE subject != '';
CREATE TABLE part (
    manifest INTEGER NOT NULL REFERENCES manifest ON DELETE CASCADE, position INTEGER NOT NULL,
    kind TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (manifest, position)
) WITHOUT ROWID;
CREATE INDEX part_digest ON part (digest, manifest);
CREATE TABLE tag (
    repository INTEGER NOT NULL REFERENCES repository ON DELETE CASCADE, name TEXT NOT NULL, digest TEXT NOT NULL,
    pushed REAL, pushed_by TEXT NOT NULL DEFAULT '', seen REAL NOT NULL, technical INTEGER NOT NULL,
    PRIMARY KEY (repository, name)
) WITHOUT ROWID;
CREATE INDEX tag_digest ON tag (repository, digest);
CREATE TABLE pull (
    repository INTEGER NOT NULL REFERENCES repository ON DELETE CASCADE, digest TEXT NOT NULL,
    last REAL NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE TABLE trash (
    id INTEGER PRIMARY KEY, repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    content BLOB NOT NULL, tags TEXT NOT NULL, whole INTEGER NOT NULL, deleted_by TEXT NOT NULL, at REAL NOT NULL
);
"""
TAG_ROWS = """
SELECT tag.name, tag.digest, tag.pushed, tag.pushed_by, tag.seen, tag.technical, m.kind, m.media_type, m.size,
       m.platforms, m.created, m.artifact_type, pull.last AS pulled, coalesce(pull.times, 0) AS pulls
FROM tag LEFT JOIN manifest m ON m.repository = tag.repository AND m.digest = tag.digest
         LEFT JOIN pull ON pull.repository = tag.repository AND pull.digest = tag.digest
WHERE tag.repository = ?
"""
# Blobs only: what a manifest itself takes is nothing beside them.
SIZES = """
WITH held AS (
    SELECT DISTINCT part.digest, part.size, m.repository FROM part JOIN manifest m ON m.id = part.manifest
    WHERE part.kind IN ('config', 'layer')
), sharing AS (SELECT digest, count(*) AS repositories FROM held GROUP BY digest)
SELECT held.repository, sum(held.size) AS size, sum(CASE WHEN repositories = 1 THEN held.size ELSE 0 END) AS exclusive
FROM held JOIN sharing USING (digest) GROUP BY held.repository
"""
TOTAL = """
SELECT coalesce(sum(size), 0) FROM (
    SELECT max(size) AS size FROM part WHERE kind IN ('config', 'layer') GROUP BY digest)
"""

Row = dict[str, t.Any]


class Store:
    """The index. Every method may be called from any thread; writes wait for each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._writing = threading.RLock()
        # Grows with every change.
        self.version = 0
        self._open()

    def _open(self) -> None:
        """Have a file with our tables: one that is damaged, or of another version, is thrown away."""
        try:
            version = self._connection().execute("PRAGMA user_version").fetchone()[0]
            sound = (
                version == SCHEMA_VERSION and self._connection().execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            )
        except sqlite3.DatabaseError:
            sound = False
        if sound:
            return
        self._connection().close()
        del self._local.connection
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        connection = self._connection()
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connection(self) -> sqlite3.Connection:
        known: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if known is None:
            known = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            self._local.connection = known
            known.row_factory = sqlite3.Row
            known.execute("PRAGMA journal_mode = WAL")
            # The index is disposable: a crash of the machine may cost the last seconds of it.
            known.execute("PRAGMA synchronous = NORMAL")
            known.execute("PRAGMA foreign_keys = ON")
            known.execute("PRAGMA cache_size = -16000")
        return known

    @contextlib.contextmanager
    def _write(self) -> t.Iterator[sqlite3.Connection]:
        with self._writing:
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self.version += 1

    def _rows(self, query: str, *values: object) -> list[Row]:
        return [dict(row) for row in self._connection().execute(query, values)]

    def _row(self, query: str, *values: object) -> Row | None:
        row = self._connection().execute(query, values).fetchone()
        return dict(row) if row else None

    # Facts about the index itself

    def meta(self, key: str, default: str = "") -> str:
        """Return a fact that was noted."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return str(row["value"]) if row else default

    def note(self, key: str, value: str) -> None:
        """Note a fact."""
        with self._write() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def counts(self) -> dict[str, int]:
        """Return how many repositories, tags and manifests there are, and the bytes of all distinct blobs."""
        one = self._connection().execute
        return {
            "repositories": one("SELECT count(*) FROM repository WHERE tags > 0").fetchone()[0],
            "tags": one("SELECT coalesce(sum(tags), 0) FROM repository").fetchone()[0],
            "manifests": one("SELECT count(*) FROM manifest").fetchone()[0],
            "bytes": int(self.meta("bytes", "0")),
        }

    # Repositories

    def repositories(self, words: t.Sequence[str] = (), limit: int = 5000) -> list[Row]:
        """Return repositories with a tag or an image in them whose names hold every one of some words."""
        where = "".join(" AND instr(lower(name), ?)" for _ in words)
        return self._rows(
            f"SELECT * FROM repository r WHERE (tags > 0 OR size > 0) {where} ORDER BY name LIMIT ?",
            *(word.lower() for word in words),
            limit,
        )

    def repository(self, name: str) -> Row | None:
        """Return one repository."""
        return self._row("SELECT * FROM repository WHERE name = ?", name)

    def find_tags(self, words: t.Sequence[str], limit: int = 50) -> list[Row]:
        """Return tags whose REPOSITORY:TAG holds every one of some words, though the repository's name does not."""
        if not words:
            return []
        lowered = [word.lower() for word in words]
        full = " AND ".join("instr(lower(r.name || ':' || tag.name), ?)" for _ in words)
        name = " AND ".join("instr(lower(r.name), ?)" for _ in words)
        query = f"""
            SELECT r.name AS repository, tag.name, tag.digest, tag.pushed
            FROM tag JOIN repository r ON r.id = tag.repository
            WHERE tag.technical = 0 AND {full} AND NOT ({name}) ORDER BY r.name, tag.name LIMIT ?"""
        return self._rows(query, *lowered, *lowered, limit)

    def ensure_repository(self, name: str) -> int:
        """Return the number of a repository, which is made if it is not there."""
        with self._write() as connection:
            connection.execute("INSERT OR IGNORE INTO repository (name) VALUES (?)", (name,))
            return int(connection.execute("SELECT id FROM repository WHERE name = ?", (name,)).fetchone()[0])

    def forget_repository(self, name: str) -> None:
        """Drop a repository and everything in it."""
        with self._write() as connection:
            connection.execute("DELETE FROM repository WHERE name = ?", (name,))

    def names(self) -> set[str]:
        """Return the names of all repositories, those without tags included."""
        return {row["name"] for row in self._rows("SELECT name FROM repository")}

    # Tags

    def tags(self, repository: str, *, technical: bool = False) -> list[Row]:
        """Return a repository's tags with what is known of their images; technical ones only when asked for."""
        found = self.repository(repository)
        rows = self._rows(TAG_ROWS, found["id"]) if found else []
        return [row for row in rows if technical or not row["technical"]]

    def tag(self, repository: str, name: str) -> Row | None:
        """Return one tag."""
        found = self.repository(repository)
        return self._row(f"{TAG_ROWS} AND tag.name = ?", found["id"], name) if found else None

    def tags_of(self, repository: str, digest: str) -> list[str]:
        """Return the names of all tags of a digest."""
        query = "SELECT tag.name FROM tag JOIN repository r ON r.id = tag.repository WHERE r.name = ? AND digest = ?"
        return sorted(row["name"] for row in self._rows(query, repository, digest))

    def put_tag(
        self, repository: str, name: str, digest: str, *, technical: bool, pushed: float | None, pushed_by: str
    ) -> None:
        """Note what a tag points to. Without a time of push, what was known stays as long as the digest does."""
        number = self.ensure_repository(repository)
        with self._write() as connection:
            connection.execute(
                """INSERT INTO tag VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, name) DO UPDATE SET
                   seen = CASE WHEN digest = excluded.digest THEN seen ELSE excluded.seen END,
                   pushed_by = CASE WHEN excluded.pushed IS NULL AND digest = excluded.digest THEN pushed_by
                                    ELSE excluded.pushed_by END,
                   pushed = CASE WHEN excluded.pushed IS NULL AND digest = excluded.digest THEN pushed
                                 ELSE excluded.pushed END,
                   digest = excluded.digest""",
                (number, name, digest, pushed, pushed_by, time.time(), technical),
            )

    def forget_tag(self, repository: str, name: str) -> None:
        """Drop a tag; its manifest stays."""
        with self._write() as connection:
            query = "DELETE FROM tag WHERE name = ? AND repository = (SELECT id FROM repository WHERE name = ?)"
            connection.execute(query, (name, repository))

    # Manifests

    def manifest(self, repository: str, digest: str) -> Row | None:
        """Return a manifest with its bytes and its configuration's."""
        query = """SELECT m.*, pull.last AS pulled, coalesce(pull.times, 0) AS pulls
                   FROM manifest m JOIN repository r ON r.id = m.repository
                   LEFT JOIN pull ON pull.repository = r.id AND pull.digest = m.digest
                   WHERE r.name = ? AND m.digest = ?"""
        row = self._row(query, repository, digest)
        if row:
            row["content"] = zlib.decompress(row["content"])
            row["config"] = zlib.decompress(row["config"]) if row["config"] else None
        return row

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Tell whether a manifest is known."""
        query = "SELECT 1 FROM manifest m JOIN repository r ON r.id = m.repository WHERE r.name = ? AND m.digest = ?"
        return self._row(query, repository, digest) is not None

    def put_manifest(
        self,
        repository: str,
        digest: str,
        manifest: Manifest,
        content: bytes,
        config: bytes | None,
        *,
        platforms: t.Sequence[str],
        created: float | None,
    ) -> None:
        """Note a manifest. The size of an index is that of the distinct blobs of the manifests that it names."""
        number = self.ensure_repository(repository)
        with self._write() as connection:
            size = sum({p.digest: p.size for p in manifest.parts if p.kind in ("config", "layer")}.values())
            if manifest.kind == "index":
                size = self._index_size(number, [part.digest for part in manifest.children])
            connection.execute("DELETE FROM manifest WHERE repository = ? AND digest = ?", (number, digest))
            cursor = connection.execute(
                "INSERT INTO manifest VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    digest,
                    manifest.media_type,
                    manifest.kind,
                    len(content),
                    size,
                    " ".join(platforms),
                    created,
                    manifest.artifact_type[:200],
                    manifest.subject,
                    zlib.compress(content),
                    zlib.compress(config) if config is not None else None,
                    time.time(),
                ),
            )
            rows = ((cursor.lastrowid, at, part.kind, part.digest, part.size) for at, part in enumerate(manifest.parts))
            connection.executemany("INSERT INTO part VALUES (?, ?, ?, ?, ?)", rows)

    def _index_size(self, repository: int, children: t.Sequence[str]) -> int:
        query = f"""SELECT coalesce(sum(size), 0) AS size FROM (
            SELECT max(part.size) AS size FROM part JOIN manifest m ON m.id = part.manifest
            WHERE m.repository = ? AND m.digest IN ({",".join("?" * len(children))})
            AND part.kind IN ('config', 'layer') GROUP BY part.digest)"""
        return int(self._rows(query, repository, *children)[0]["size"])

    def forget_manifest(self, repository: str, digest: str) -> None:
        """Drop a manifest and the tags that point to it."""
        with self._write() as connection:
            for table in ("manifest", "tag", "pull"):
                where = "digest = ? AND repository = (SELECT id FROM repository WHERE name = ?)"
                connection.execute(f"DELETE FROM {table} WHERE {where}", (digest, repository))

    def untagged(self, repository: str) -> list[Row]:
        """Return manifests that no tag, no index and no subject keeps: a garbage collection may take them."""
        query = """
            SELECT m.digest, m.kind, m.media_type, m.size, m.platforms, m.created, m.artifact_type, m.seen
            FROM manifest m JOIN repository r ON r.id = m.repository
            WHERE r.name = ? AND m.subject = ''
              AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.repository = r.id AND tag.digest = m.digest)
              AND NOT EXISTS (SELECT 1 FROM part JOIN manifest p ON p.id = part.manifest
                              WHERE part.digest = m.digest AND p.repository = r.id)
            ORDER BY m.seen DESC"""
        return self._rows(query, repository)

    def digests(self, repository: str) -> set[str]:
        """Return the digests of all manifests of a repository."""
        query = "SELECT m.digest FROM manifest m JOIN repository r ON r.id = m.repository WHERE r.name = ?"
        return {row["digest"] for row in self._rows(query, repository)}

    def parents(self, repository: str, digest: str) -> list[Row]:
        """Return the indexes that name a manifest."""
        query = """SELECT DISTINCT m.digest, m.platforms FROM part JOIN manifest m ON m.id = part.manifest
                   JOIN repository r ON r.id = m.repository WHERE r.name = ? AND part.digest = ?"""
        return self._rows(query, repository, digest)

    def referrers(self, repository: str, digest: str) -> list[Row]:
        """Return manifests that name another as their subject."""
        query = """SELECT m.digest, m.artifact_type, m.media_type, m.size, m.created FROM manifest m
                   JOIN repository r ON r.id = m.repository WHERE r.name = ? AND m.subject = ? ORDER BY m.seen"""
        return self._rows(query, repository, digest)

    def sharing(self, repository: str, digest: str, most: int = 1000) -> dict[str, int]:
        """Return for each blob of a manifest in how many other manifests of the registry it is, counted to most."""
        query = """
            SELECT own.digest, (SELECT count(*) - 1 FROM
                                (SELECT 1 FROM part other WHERE other.digest = own.digest LIMIT :most)) AS n
            FROM part own JOIN manifest m ON m.id = own.manifest JOIN repository r ON r.id = m.repository
            WHERE r.name = :name AND m.digest = :digest"""
        values = {"name": repository, "digest": digest, "most": most + 1}
        return {row["digest"]: row["n"] for row in self._connection().execute(query, values)}

    def sharers(self, repository: str, digest: str, limit: int = 20) -> list[Row]:
        """Return the manifests that share most bytes with one, of the whole registry."""
        query = """
            WITH target AS (SELECT m.id FROM manifest m JOIN repository r ON r.id = m.repository
                            WHERE r.name = :name AND m.digest = :digest),
                 family AS (SELECT id FROM target UNION SELECT c.id FROM part JOIN target ON target.id = part.manifest
                            JOIN manifest c ON c.digest = part.digest AND c.repository =
                                (SELECT repository FROM manifest WHERE id = target.id)),
                 own AS (SELECT DISTINCT digest, size FROM part WHERE kind IN ('config', 'layer')
                         AND manifest IN (SELECT id FROM family))
            SELECT r.name AS repository, m.digest, sum(own.size) AS size,
                   (SELECT group_concat(tag.name, ' ') FROM tag
                    WHERE tag.repository = r.id AND tag.digest = m.digest) AS tags
            FROM own JOIN part ON part.digest = own.digest JOIN manifest m ON m.id = part.manifest
            JOIN repository r ON r.id = m.repository
            WHERE m.id NOT IN (SELECT id FROM family)
            GROUP BY m.id ORDER BY size DESC, repository LIMIT :limit"""
        connection = self._connection()
        return [dict(row) for row in connection.execute(query, {"name": repository, "digest": digest, "limit": limit})]

    def only_here(self, repository: str, digest: str) -> int:
        """Return the bytes of blobs that no other manifest has: what a garbage collection frees when this one is gone.

        For an index, its manifests that have no tag and are in no other index go with it.
        """
        query = """
            WITH target AS (SELECT m.id, m.repository FROM manifest m JOIN repository r ON r.id = m.repository
                            WHERE r.name = :name AND m.digest = :digest),
                 going AS (
                    SELECT id FROM target UNION
                    SELECT c.id FROM target JOIN part ON part.manifest = target.id
                    JOIN manifest c ON c.digest = part.digest AND c.repository = target.repository
                    WHERE NOT EXISTS (SELECT 1 FROM tag WHERE tag.repository = c.repository AND tag.digest = c.digest)
                      AND NOT EXISTS (SELECT 1 FROM part p JOIN manifest i ON i.id = p.manifest
                                      WHERE p.digest = c.digest AND i.repository = c.repository AND i.id != target.id))
            SELECT coalesce(sum(size), 0) AS size FROM (
                SELECT max(size) AS size FROM part
                WHERE kind IN ('config', 'layer') AND manifest IN (SELECT id FROM going)
                  AND digest NOT IN (SELECT other.digest FROM part other WHERE other.digest = part.digest
                                     AND other.manifest NOT IN (SELECT id FROM going))
                GROUP BY digest)"""
        connection = self._connection()
        return int(connection.execute(query, {"name": repository, "digest": digest}).fetchone()["size"])

    # Pulls

    def put_pull(self, repository: str, digest: str, at: float) -> None:
        """Count a pull."""
        number = self.ensure_repository(repository)
        with self._write() as connection:
            connection.execute(
                """INSERT INTO pull VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE
                   SET last = max(last, excluded.last), times = times + 1""",
                (number, digest, at),
            )
            query = "UPDATE repository SET pulled = max(coalesce(pulled, 0), ?), pulls = pulls + 1 WHERE id = ?"
            connection.execute(query, (at, number))

    # Sums

    def count_repository(self, name: str) -> None:
        """Bring a repository's number of tags and time of last push up to date: what its row shows at once."""
        with self._write() as connection:
            connection.execute(
                """UPDATE repository SET
                     tags = (SELECT count(*) FROM tag WHERE tag.repository = repository.id AND technical = 0),
                     pushed = (SELECT max(pushed) FROM tag WHERE tag.repository = repository.id)
                   WHERE name = ?""",
                (name,),
            )

    def sum_up(self) -> None:
        """Bring all sizes up to date; takes a moment, so not for each push."""
        sizes = self._rows(SIZES)
        total = self._connection().execute(TOTAL).fetchone()[0]
        with self._write() as connection:
            connection.execute("UPDATE repository SET size = 0, exclusive = 0 WHERE size > 0")
            query = "UPDATE repository SET size = :size, exclusive = :exclusive WHERE id = :repository"
            connection.executemany(query, sizes)
            self.note("bytes", str(total))

    # What was deleted here

    def put_trash(self, entry: Row) -> int:
        """Keep a manifest that is about to be deleted; return the number under which it can be had back."""
        with self._write() as connection:
            cursor = connection.execute(
                "INSERT INTO trash VALUES (NULL, :repository, :digest, :media_type, :content, :tags, :whole, :by, :at)",
                entry | {"content": zlib.compress(entry["content"]), "tags": json.dumps(entry["tags"])},
            )
            return int(cursor.lastrowid or 0)

    def trash(self, number: int) -> Row | None:
        """Return something that was deleted."""
        row = self._row("SELECT * FROM trash WHERE id = ?", number)
        return self._from_trash(row) if row else None

    def all_trash(self, limit: int = 50) -> list[Row]:
        """Return what was deleted, newest first."""
        return [self._from_trash(row) for row in self._rows("SELECT * FROM trash ORDER BY id DESC LIMIT ?", limit)]

    @staticmethod
    def _from_trash(row: Row) -> Row:
        return row | {"content": zlib.decompress(row["content"]), "tags": json.loads(row["tags"])}

    def forget_trash(self, number: int) -> None:
        """Drop something that was deleted: it is back, or gone for good."""
        with self._write() as connection:
            connection.execute("DELETE FROM trash WHERE id = ?", (number,))

    def forget_trash_before(self, stamp: float) -> None:
        """Drop what was deleted before a garbage collection."""
        with self._write() as connection:
            connection.execute("DELETE FROM trash WHERE at < ?", (stamp,))
