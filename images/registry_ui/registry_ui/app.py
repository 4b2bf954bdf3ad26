# SPDX-License-Identifier: GPL-3.0-or-later
"""The web application: which address shows what."""

from __future__ import annotations

import contextlib
import hashlib
import time
import typing as t
import urllib.parse
from pathlib import Path

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry_ui import VERSION, api, manifests, metrics, text, treemap, views
from registry_ui.client import Registry, RegistryError
from registry_ui.guard import Gate, Tokens, Visitor, inner_path, new_key, same_origin, small_form
from registry_ui.indexer import Indexer
from registry_ui.settings import Machine, Settings
from registry_ui.store import Row, Store

HERE = Path(__file__).resolve().parent
PAGE_SIZE = 100
MAX_ENVELOPE = 8 * 2**20
MAX_BOXES = 60
# Seconds for which the tree is kept: even while pushes come in, and at most, because it says how long ago things were.
KEEP_AT_LEAST, KEEP_AT_MOST = 1.0, 30.0
MOST_KEPT = 32
# Between a repository's name and what is shown of it; no part of a name may begin with a dash.
MARK = "/-/"


def _static_version() -> str:
    files = sorted((HERE / "static").iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def environment(settings: Settings) -> jinja2.Environment:
    """Return Jinja with our filters."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "visible": text.visible,
        "lines": text.lines,
        "plain": text.plain,
        "bytes": text.bytes_,
        "moment": text.moment,
        "machine_time": text.machine_time,
        "short": text.short,
        "path": lambda value: urllib.parse.quote(str(value), safe="/:@"),
        "count": text.count,
    }
    env.globals |= {"registry": settings.registry_name, "version": VERSION, "static": _static_version()}
    return env


class Timed:
    """Notes how long each answer took."""

    def __init__(self, app: ASGIApp, timings: metrics.Timings) -> None:
        self.app = app
        self.timings = timings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        watch, status = metrics.Stopwatch(), [500]

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            if scope["type"] == "http":
                self.timings.add(scope.get("state", {}).get("page", "other"), watch.seconds(), status[0])


class Pages:
    """Every page. Methods are synchronous: Starlette runs them in threads, each with a connection to the index."""

    def __init__(self, settings: Settings, store: Store, registry: Registry, indexer: Indexer) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.indexer = indexer
        self.machine = Machine(settings.state_dirs)
        self.timings = metrics.Timings()
        self._kept: dict[str, tuple[tuple[int, str], float, Markup]] = {}
        self.jinja = environment(settings)
        key = store.meta("token key") or new_key()
        store.note("token key", key)
        self.tokens = Tokens(key)

    # Helpers

    def html(self, request: Request, template: str, status: int = 200, **values: t.Any) -> HTMLResponse:
        """Return a page made from its template."""
        request.state.page = template
        visitor = Visitor.of(request)
        now = time.time()
        shown = self.jinja.get_template(f"{template}.html").render(
            visitor=visitor,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            token=self.tokens.give(visitor.name) if visitor.name else "",
            ago=lambda stamp: text.ago(stamp, now),
            when=lambda stamp, unknown="—": text.when(stamp, now, unknown),
            progress=self.indexer.progress,
            scanned=bool(self.store.meta("scanned")),
            read_only=self.machine.read_only(),
            **values,
        )
        return HTMLResponse(shown, status)

    def error(self, request: Request, status: int, title: str, hint: str) -> Response:
        """Return an error as a page, or as JSON to a program."""
        if request.url.path.startswith("/ui/api/"):
            return JSONResponse({"error": title, "hint": hint}, status)
        return self.html(request, "error", status, title=title, hint=hint)

    def failed(self, request: Request, exc: Exception) -> Response:
        """Answer what no page could be made of."""
        if isinstance(exc, RegistryError):
            hint = "The page of the registry's health says more; its container's log says why."
            return self.error(request, 502, str(exc), hint)
        if isinstance(exc, HTTPException):
            hints = {404: "It may have been deleted or renamed. Search for it, or begin at the list of repositories."}
            return self.error(request, exc.status_code, exc.detail, hints.get(exc.status_code, ""))
        return self.error(
            request, 500, "Something went wrong here", "The log of the container slipway-registry-ui says it."
        )

    # Reading

    def home(self, request: Request) -> Response:
        """Show all repositories as a tree, or those that a search finds."""
        query = request.query_params.get("q", "").strip()[:200]
        return self.html(request, "home", query=query, results=self._results(query))

    def _results(self, query: str) -> Markup:
        """Return the tree as HTML, the one made before while nothing has changed: it is long, and the same for all."""
        version, now = (self.store.version, self.indexer.progress.state), time.time()
        kept = self._kept.get(query)
        if kept and (kept[0] == version or now - kept[1] < KEEP_AT_LEAST) and now - kept[1] < KEEP_AT_MOST:
            return kept[2]
        words = query.split()
        rows = self.store.repositories(words)
        made = self.jinja.get_template("results.html").render(
            query=query,
            tree=views.tree(rows),
            found=len(rows),
            tags=self.store.find_tags(words) if query else [],
            counts=self.store.counts(),
            progress=self.indexer.progress,
            when=lambda stamp, unknown="—": text.when(stamp, now, unknown),
        )
        while len(self._kept) >= MOST_KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[query] = (version, now, Markup(made))
        return self._kept[query][2]

    def under_repository(self, request: Request) -> Response:
        """Show a repository, or what stands after /-/ in the address."""
        name, _, rest = request.path_params["path"].partition(MARK)
        name = name.rstrip("/")
        what, _, which = rest.partition("/")
        if not rest:
            return self.repository(request, name)
        shown = {"tag": self.tag, "digest": self.digest, "raw": self.raw}
        if which.endswith("/delete") and what in ("tag", "digest"):
            return self.confirm(request, name, what, which.removesuffix("/delete"))
        if what == "compare":
            return self.compare(request, name)
        if what not in shown or not which:
            raise HTTPException(404, "There is no such page")
        return shown[what](request, name, which)

    def repository(self, request: Request, name: str) -> Response:
        """Show a repository's tags."""
        found = self.store.repository(name)
        if found is None:
            raise HTTPException(404, f"There is no repository {text.plain(name, longest=200)}")
        every = self.store.tags(name)
        query = request.query_params.get("q", "").strip()[:200]
        by = request.query_params.get("sort", "name")
        by = by if by in views.SORTS else "name"
        down = request.query_params.get("order", "down") != "up"
        rows = [row for row in views.add_twins(every) if query.lower() in row["name"].lower()]
        rows = views.sort_tags(rows, by, down=down)
        pages = max(1, -(-len(rows) // PAGE_SIZE))
        page = min(max(1, _number(request.query_params.get("page", "1"))), pages)
        return self.html(
            request,
            "repository",
            repository=found,
            tags=rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
            matching=len(rows),
            total=len(every),
            technical=len(self.store.tags(name, technical=True)) - len(every),
            untagged=self.store.untagged(name),
            query=query,
            sort=by,
            down=down,
            page=page,
            pages=pages,
        )

    def tag(self, request: Request, name: str, tag: str) -> Response:
        """Show the image of a tag."""
        row = self.store.tag(name, tag)
        if row is None:
            raise HTTPException(404, f"There is no tag {text.plain(f'{name}:{tag}', longest=200)}")
        return self._image(request, name, row["digest"], tag, row)

    def digest(self, request: Request, name: str, digest: str) -> Response:
        """Show an image by its digest."""
        return self._image(request, name, digest, "", None)

    def _image(self, request: Request, name: str, digest: str, tag: str, row: Row | None) -> Response:
        image = self._known(name, digest)
        pulls = views.pull_commands(self.settings.registry_name, name, tag, digest)
        return self.html(request, "image", image=image, tag=tag, tag_row=row, pulls=pulls)

    def _known(self, name: str, digest: str) -> views.Image:
        image = views.image(self.store, self.registry, name, digest)
        may_be_there = manifests.DIGEST.fullmatch(digest) and self.store.repository(name) is not None
        # One that no notification told of, such as another platform's of an index by digest.
        if image is None and may_be_there and self.indexer.refresh_manifest(name, digest):
            image = views.image(self.store, self.registry, name, digest)
        if image is None:
            raise HTTPException(404, f"There is no image {text.plain(f'{name}@{digest}', longest=200)}")
        return image

    def raw(self, request: Request, name: str, digest: str) -> Response:
        """Give a manifest, or the configuration that it names, as it is stored."""
        request.state.page = "raw"
        image = self._known(name, digest.removesuffix("/config"))
        content = image.row["config"] if digest.endswith("/config") else image.row["content"]
        if content is None:
            raise HTTPException(404, "It has no configuration")
        return Response(content, media_type="text/plain; charset=utf-8")

    def compare(self, request: Request, name: str) -> Response:
        """Show two tags of a repository side by side."""
        chosen = request.query_params.getlist("t")
        tags = views.sort_tags(self.store.tags(name), "name", down=True)
        if len(chosen) != 2:
            return self.html(request, "compare", repository=name, tags=tags, chosen=chosen, pair=None, platforms=[])
        rows = [self.store.tag(name, tag) for tag in chosen]
        if None in rows:
            raise HTTPException(404, "One of the two tags is not there")
        platform = request.query_params.get("platform", "")
        sides = [views.pick(self.store, name, row["digest"], platform) for row in rows if row]
        left, right = sides[0][0], sides[1][0]
        both = [name for name in sides[0][1] if name in sides[1][1]]
        if left and right and not platform and both and left.config.platform != right.config.platform:
            left, right = (views.pick(self.store, name, row["digest"], both[0])[0] for row in rows if row)
        return self.html(
            request,
            "compare",
            repository=name,
            tags=tags,
            chosen=chosen,
            rows=rows,
            pair=(left, right) if left and right else None,
            result=views.compare(left, right) if left and right else None,
            platforms=both if len(both) > 1 else [],
            platform=left.config.platform if left else "",
        )

    def space(self, request: Request) -> Response:
        """Show where the space goes."""
        rows = sorted(self.store.repositories(), key=lambda row: -row["size"])
        boxes = treemap.squarify([(row["size"], row) for row in rows[:MAX_BOXES]], 1000, 420)
        rest = sum(row["size"] for row in rows[MAX_BOXES:])
        health = self.machine.said("health").get("facts", {})
        return self.html(
            request, "space", rows=rows[:200], boxes=boxes, rest=rest, more=max(0, len(rows) - 200),
            counts=self.store.counts(), free=health.get("free_bytes") if isinstance(health, dict) else None,
        )  # fmt: skip

    def state(self) -> dict[str, t.Any]:
        """Return how the registry and the index are."""
        try:
            answer, reason = self.registry.ping(), ""
        except RegistryError as exc:
            answer, reason = None, str(exc)
        health = self.machine.said("health")
        facts = health.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        problems = health.get("problems")
        progress = self.indexer.progress
        return {
            "registry": {"answers": answer is not None, "seconds": answer, "reason": reason,
                         "version": self.settings.registry_version, "read_only": self.machine.read_only()},
            "machine": {
                "free_bytes": facts.get("free_bytes"),
                "certificate_days": facts.get("certificate_days"),
                "problems": [str(item[0]) for item in problems.values() if isinstance(item, list) and item]
                if isinstance(problems, dict) else [],
                "last_garbage_collection": self.machine.last("gc"),
                "last_backup": self.machine.last("backup"),
            },
            "index": self.store.counts() | {
                "scan": progress.state, "scan_percent": progress.percent, "scan_error": progress.error,
                "scanned": float(self.store.meta("scanned", "0")) or None, "waiting": self.indexer.waiting,
                "notifications": dict(self.indexer.events),
            },
            "version": VERSION,
        }  # fmt: skip

    def health(self, request: Request) -> Response:
        """Show how the registry and the index are."""
        return self.html(request, "health", state=self.state(), progress_total=self.indexer.progress.total)

    def deleted(self, request: Request) -> Response:
        """Show what was deleted here and can be had back."""
        collected = self.machine.last("gc")
        if collected:
            self.store.forget_trash_before(collected)
        return self.html(request, "deleted", entries=self.store.all_trash(), collected=collected)

    def metrics(self, request: Request) -> Response:
        """Give the numbers to Prometheus."""
        request.state.page = "metrics"
        facts = self.machine.said("health").get("facts")
        facts = facts if isinstance(facts, dict) else {}
        numbers = {key: float(value) for key, value in facts.items() if isinstance(value, bool | int | float)}
        for job in ("gc", "backup"):
            numbers[f"last_{job}_seconds"] = self.machine.last(job) or 0
        body = metrics.render(self.store, self.indexer, self.timings, numbers)
        return PlainTextResponse(body, media_type="text/plain; version=0.0.4")

    def login(self, request: Request) -> Response:
        """Go back to where the visitor came from; the proxy asked for the login on the way here."""
        if not Visitor.of(request).name:
            raise HTTPException(401, "You are not signed in")
        return RedirectResponse(inner_path(request.query_params.get("next", "")), 303)

    def healthz(self, _request: Request) -> Response:
        """Say that the program runs."""
        return PlainTextResponse("ok\n")

    # Writing

    async def changing(self, request: Request) -> Response:
        """Take a form that changes something."""
        form = await small_form(request)
        return await run_in_threadpool(self._change, request, form)

    def _change(self, request: Request, form: dict[str, str]) -> Response:
        visitor = Visitor.of(request)
        if not visitor.name:
            raise HTTPException(401, "Sign in first")
        if not same_origin(request) or not self.tokens.accept(visitor.name, form.get("token", "")):
            return self.error(
                request, 403, "This form is too old, or is not ours", "Load the page again and repeat it."
            )
        if request.url.path == "/ui/scan":
            self.indexer.want_scan()
            return RedirectResponse("/ui/health", 303)
        if not visitor.may_delete:
            hint = f"{visitor.name} may read only. Whoever runs the registry says who may delete."
            return self.error(request, 403, "You may not delete here", hint)
        if self.machine.read_only():
            hint = "A garbage collection runs, or its disk is nearly full. Try again when it has ended."
            return self.error(request, 409, "The registry takes no changes now", hint)
        name, _, rest = request.path_params["path"].partition(MARK)
        what, _, which = rest.partition("/")
        if what == "undo":
            return self.undo(request, name, _number(which))
        if what in ("tag", "digest") and which.endswith("/delete"):
            return self.delete(request, visitor, name, what, which.removesuffix("/delete"))
        raise HTTPException(404, "There is no such page")

    def confirm(self, request: Request, name: str, what: str, which: str) -> Response:
        """Show what deleting would do."""
        tag = which if what == "tag" else ""
        row = self.store.tag(name, tag) if tag else None
        digest = row["digest"] if row else which
        if (tag and row is None) or not self.store.has_manifest(name, digest):
            raise HTTPException(404, "It is not there, or not any more")
        facts = views.removal(self.store, name, digest, tag)
        return self.html(request, "delete", repository=name, tag=tag, digest=digest, facts=facts)

    def delete(self, request: Request, visitor: Visitor, name: str, what: str, which: str) -> Response:
        """Delete a tag, or a manifest with all its tags; keep what is needed to undo it."""
        tag = which if what == "tag" else ""
        digest = self.registry.digest(name, tag) if tag else which
        fetched = self.registry.manifest(name, digest) if digest else None
        if fetched is None:
            self.indexer.refresh_tag(name, which) if tag else self.store.forget_manifest(name, which)
            raise HTTPException(404, "It is not there any more")
        tags = self.store.tags_of(name, digest)
        entry = {
            "repository": name,
            "digest": digest,
            "media_type": fetched.media_type,
            "content": fetched.content,
            "tags": [tag] if tag else tags,
            "whole": int(not tag),
            "by": visitor.name,
            "at": time.time(),
        }
        number = self.store.put_trash(entry)
        try:
            self._delete(name, digest, tag, [other for other in tags if other != tag])
        except BaseException:
            self.store.forget_trash(number)
            raise
        self.indexer.changed(name)
        return RedirectResponse("/ui/deleted", 303)

    def _delete(self, name: str, digest: str, tag: str, others: list[str]) -> None:
        if not tag:
            self.registry.delete(name, digest)
            self.store.forget_manifest(name, digest)
            return
        try:
            self.registry.delete(name, tag)
        except RegistryError as exc:
            # Version 2 knows no deletion of a tag alone, so the manifest goes, unless that would take other tags too.
            if exc.status not in (400, 405):
                raise
            if others:
                raise HTTPException(
                    409, f"This registry can only delete the whole image, and {', '.join(others[:5])} have it too"
                ) from exc
            self.registry.delete(name, digest)
            self.store.forget_manifest(name, digest)
        self.store.forget_tag(name, tag)

    def undo(self, request: Request, name: str, number: int) -> Response:
        """Put back what was deleted."""
        entry = self.store.trash(number)
        if entry is None or entry["repository"] != name:
            raise HTTPException(404, "It is back already, or a garbage collection has been since")
        taken = [tag for tag in entry["tags"] if self.registry.digest(name, tag) not in ("", entry["digest"])]
        if taken:
            hint = "Somebody pushed another image under that name since. Nothing was changed."
            return self.error(request, 409, f"{', '.join(taken)} is another image by now", hint)
        try:
            for reference in entry["tags"] or [entry["digest"]]:
                self.registry.put(name, reference, entry["media_type"], entry["content"])
        except RegistryError as exc:
            if exc.status in (400, 404):
                hint = "A garbage collection has removed its layers: push the image again."
                return self.error(request, 410, "It cannot be had back", f"{hint} The registry says: {exc}")
            raise
        self.store.forget_trash(number)
        self.indexer.refresh_manifest(name, entry["digest"])
        for tag in entry["tags"]:
            self.indexer.refresh_tag(name, tag)
        self.indexer.changed(name)
        where = f"tag/{entry['tags'][0]}" if entry["tags"] else f"digest/{entry['digest']}"
        return RedirectResponse(f"/ui/r/{urllib.parse.quote(name)}{MARK}{where}", 303)

    async def events(self, request: Request) -> Response:
        """Take the registry's notifications."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_ENVELOPE:
                return PlainTextResponse("too large\n", 413)
        try:
            envelope = manifests.load(body)
        except manifests.UnreadableError as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        taken = await run_in_threadpool(self.indexer.take, envelope)
        return JSONResponse({"taken": taken})


def _number(value: str) -> int:
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0


def routes(pages: Pages) -> list[Route | Mount]:
    """Return every address."""
    answers = api.Api(pages.store, pages.registry, pages.state)
    paths = [Route(f"/ui/api/v1/{name}", answer, name=f"api {name}") for name, answer in answers.operations().items()]
    return [
        Route("/healthz", pages.healthz),
        Route("/events", pages.events, methods=["POST"]),
        Route("/ui", lambda _request: RedirectResponse("/ui/", 308)),
        Route("/ui/", pages.home),
        Route("/ui/r/{path:path}", pages.under_repository, methods=["GET"]),
        Route("/ui/r/{path:path}", pages.changing, methods=["POST"]),
        Route("/ui/scan", pages.changing, methods=["POST"]),
        Route("/ui/space", pages.space),
        Route("/ui/health", pages.health),
        Route("/ui/deleted", pages.deleted),
        Route("/ui/login", pages.login),
        Route("/ui/metrics", pages.metrics),
        Route("/ui/api/", lambda request: pages.html(request, "api", document=answers.document())),
        Route("/ui/api/openapi.json", lambda _request: JSONResponse(answers.document())),
        *paths,
        Mount("/ui/static", _Static(directory=HERE / "static")),
    ]


class _Static(StaticFiles):
    """Files whose addresses carry a hash of them: a browser may keep them for ever."""

    def file_response(self, *arguments: t.Any, **options: t.Any) -> Response:
        answer = super().file_response(*arguments, **options)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


class Application:
    """All of it, the gate outermost: also an answer to a fault of our own has its headers."""

    def __init__(self, pages: Pages, inner: ASGIApp) -> None:
        self.pages = pages
        self._app = Gate(Timed(inner, pages.timings), pages.settings.gate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        await self._app(scope, receive, send)


def application(settings: Settings, *, work: bool = True) -> Application:
    """Return the application. work is off in tests that do without threads in the background."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.data_dir / "index.sqlite3")
    registry = Registry(settings.registry_url, login=settings.login, ca=settings.ca)
    indexer = Indexer(store, registry, scan_interval=settings.scan_interval)
    pages = Pages(settings, store, registry, indexer)

    @contextlib.asynccontextmanager
    async def life(_app: Starlette) -> t.AsyncIterator[None]:
        if work:
            indexer.start()
        yield
        if work:
            await run_in_threadpool(indexer.stop)
        registry.close()

    app = Starlette(
        routes=routes(pages),
        lifespan=life,
        exception_handlers={HTTPException: pages.failed, RegistryError: pages.failed, Exception: pages.failed},
    )
    return Application(pages, app)
