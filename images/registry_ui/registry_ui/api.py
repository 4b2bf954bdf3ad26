# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON API, and the OpenAPI document that describes it: both from one table."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from registry_ui import VERSION, views
from registry_ui.client import Registry
from registry_ui.store import Row, Store
from registry_ui.text import machine_time

MAX_LIMIT = 1000


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A part of the query."""

    name: str
    text: str
    required: bool = False
    kind: str = "string"


@dataclasses.dataclass(frozen=True)
class Operation:
    """Something that can be asked for."""

    text: str
    answer: t.Callable[[t.Mapping[str, str]], t.Any]
    parameters: tuple[Parameter, ...] = ()


class NotFoundError(Exception):
    """What was asked for is not there."""


REPOSITORY = Parameter("repository", "Name of a repository, such as team/app.", required=True)


class Api:
    """Answers in JSON. Everything only reads: to write, there is the registry's own API."""

    def __init__(self, store: Store, registry: Registry, state: t.Callable[[], dict[str, t.Any]]) -> None:
        self.store = store
        self.registry = registry
        self.table = {
            "repositories": Operation(
                "Repositories by name, in order.",
                self._repositories,
                (
                    Parameter("q", "Words that the name has to hold."),
                    Parameter("after", "Only names after this one: the last of the page before."),
                    Parameter("limit", f"How many, at most {MAX_LIMIT}.", kind="integer"),
                ),
            ),
            "tags": Operation(
                "Tags of a repository with their images' sizes, platforms and times.",
                self._tags,
                (REPOSITORY, Parameter("technical", "Also tags that only hold signatures and the like, if 1.")),
            ),
            "image": Operation(
                "Everything about one image.",
                self._image,
                (REPOSITORY, Parameter("reference", "Its tag or digest.", required=True)),
            ),
            "compare": Operation(
                "What two tags share and in what they differ.",
                self._compare,
                (
                    REPOSITORY,
                    Parameter("left", "A tag.", required=True),
                    Parameter("right", "Another tag.", required=True),
                    Parameter("platform", "Platform such as linux/arm64, for images with several."),
                ),
            ),
            "space": Operation("Bytes by repository: all, and those that nobody else has.", self._space),
            "state": Operation("How the registry and the index are.", lambda _query: state()),
        }

    def operations(self) -> dict[str, t.Callable[[Request], Response]]:
        """Return a request handler for each operation."""
        return {name: self._handler(operation) for name, operation in self.table.items()}

    @staticmethod
    def _handler(operation: Operation) -> t.Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            request.state.page = "api"
            query = dict(request.query_params)
            missing = [item.name for item in operation.parameters if item.required and not query.get(item.name)]
            if missing:
                return _json({"error": f"missing: {', '.join(missing)}"}, 400)
            try:
                return _json(operation.answer(query))
            except NotFoundError as exc:
                return _json({"error": str(exc)}, 404)

        return handle

    def document(self) -> dict[str, t.Any]:
        """Return the OpenAPI document."""
        paths = {}
        for name, operation in self.table.items():
            parameters = [
                {"name": item.name, "in": "query", "description": item.text, "required": item.required,
                 "schema": {"type": item.kind}}
                for item in operation.parameters
            ]  # fmt: skip
            answers = {"200": {"description": operation.text, "content": {"application/json": {"schema": {}}}}}
            if any(item.required for item in operation.parameters):
                answers |= {
                    "400": {"description": "A parameter is missing."},
                    "404": {"description": "It is not there."},
                }
            paths[f"/ui/api/v1/{name}"] = {
                "get": {"operationId": name, "summary": operation.text, "parameters": parameters, "responses": answers}
            }
        info = {
            "title": "Slipway registry UI",
            "version": VERSION,
            "description": "Reads the index of the registry's UI.",
        }
        return {"openapi": "3.1.0", "info": info, "paths": paths}

    def _repositories(self, query: t.Mapping[str, str]) -> t.Any:
        limit = min(
            max(int(query.get("limit", "200") or 0) if query.get("limit", "200").isdecimal() else 200, 1), MAX_LIMIT
        )
        rows = self.store.repositories(query.get("q", "").split(), limit=10**6)
        rows = [row for row in rows if row["name"] > query.get("after", "")]
        return {"repositories": [_plain(row) for row in rows[:limit]], "more": len(rows) > limit}

    def _tags(self, query: t.Mapping[str, str]) -> t.Any:
        name = query["repository"]
        if self.store.repository(name) is None:
            raise NotFoundError(f"there is no repository {name}")
        rows = self.store.tags(name, technical=query.get("technical") == "1")
        rows = views.add_twins(views.sort_tags(rows, "name", down=True))
        return {"repository": name, "tags": [_plain(row) | {"platforms": _words(row["platforms"])} for row in rows]}

    def _digest(self, name: str, reference: str) -> str:
        if ":" in reference:
            return reference
        row = self.store.tag(name, reference)
        if row is None:
            raise NotFoundError(f"there is no tag {name}:{reference}")
        return str(row["digest"])

    def _image(self, query: t.Mapping[str, str]) -> t.Any:
        name = query["repository"]
        digest = self._digest(name, query["reference"])
        image = views.image(self.store, self.registry, name, digest)
        if image is None:
            raise NotFoundError(f"there is no image {name}@{digest}")
        return {
            "repository": name,
            "digest": digest,
            "kind": image.manifest.kind,
            "media_type": image.manifest.media_type,
            "size": image.size,
            "tags": image.tags,
            "config": dataclasses.asdict(image.config),
            "annotations": dict(image.manifest.annotations),
            "layers": [dataclasses.asdict(layer) for layer in image.layers],
            "manifests": image.children,
            "referrers": image.referrers,
        }

    def _compare(self, query: t.Mapping[str, str]) -> t.Any:
        name, platform = query["repository"], query.get("platform", "")
        sides = [
            views.pick(self.store, name, self._digest(name, query[side]), platform)[0] for side in ("left", "right")
        ]
        if sides[0] is None or sides[1] is None:
            raise NotFoundError("one of the two is no image")
        result = views.compare(sides[0], sides[1])
        for key in ("common", "left_only", "right_only"):
            result[key] = [dataclasses.asdict(layer) for layer in result[key]]
        return result | {"left": sides[0].digest, "right": sides[1].digest}

    def _space(self, _query: t.Mapping[str, str]) -> t.Any:
        rows = sorted(self.store.repositories(limit=10**6), key=lambda row: -row["size"])
        keys = ("name", "size", "exclusive", "tags")
        return {
            "bytes": self.store.counts()["bytes"],
            "repositories": [{key: row[key] for key in keys} for row in rows],
        }


def _words(value: str | None) -> list[str]:
    return value.split() if value else []


def _plain(row: Row) -> Row:
    """Return a row with times as text and without our own numbers."""
    times = {key: machine_time(row[key]) or None for key in ("pushed", "pulled", "created", "seen") if key in row}
    return {key: value for key, value in row.items() if key not in ("id", "technical", "label")} | times


def _json(value: t.Any, status: int = 200) -> Response:
    """Return JSON in ASCII: no terminal acts on what stands in it."""
    return _Ascii(value, status)


class _Ascii(JSONResponse):
    def render(self, content: t.Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode("ascii")
