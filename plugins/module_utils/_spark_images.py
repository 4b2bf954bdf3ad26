# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark's driver and executor images: built on a model image, proven, pushed, and only when something changed.

What they are made of has one digest. It is part of their tag and stands in their label, so a registry that has both
images with that label and with their entry point has what is wanted: nothing else is asked then.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import re
import shutil
import tempfile
import typing as t
import urllib.error
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils import _images, _registry_api
from ansible_collections.slipway.platform.plugins.module_utils._containers import (
    BUILD_COMMAND,
    CREDENTIALS,
    LABEL_STACK,
    reason,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result, Runner, run

ROLES = ("executor", "driver")
LABEL = "slipway.spark.inputs"
ENTRY_POINT = ["/opt/slipway/tini", "--", "/opt/slipway/entrypoint.sh"]
DIRECTORY = "/var/cache/slipway/spark_images"
CERTIFICATES = "/etc/docker/certs.d"
SYSTEMS = ("debian", "ubuntu")
COMMAND_TIMEOUT = 300.0
CHUNK = 1 << 20
# Run as a user whom nobody knows, on a read-only root file system: what a pod may be.
PROOF = "java -version 2>/dev/null && id -un && python3 -c %s"
PYTHON = (
    "import importlib.util as u, pyspark; print(u.find_spec('torch') is not None and __import__('torch') and 'torch')"
)
HAS_TORCH = "import importlib.util as u; print(u.find_spec('torch') is not None and 'torch')"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the images are made of, and where they go. proxies are URLs with credentials, by scheme."""

    version: str
    checksum: str
    source: str
    base: str
    model: str
    model_name: str
    java: int
    registry: str
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    proxies: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    no_proxy: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    timeout: float = 3600

    @property
    def distribution(self) -> str:
        """Name of Spark's distribution, which is also the directory in it."""
        return f"spark-{self.version}-bin-hadoop3"

    @property
    def url(self) -> str:
        """Where it comes from."""
        return f"{self.source.rstrip('/')}/spark-{self.version}/{self.distribution}.tgz"

    def digest(self, base: str, model: str) -> str:
        """Digest of all that decides what comes out, with the digests of both images."""
        parts = [self.version, self.checksum, base, model, self.java, sorted(self.files)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def tag(self, digest: str) -> str:
        """Tag of both images."""
        return f"{self.version}-{self.model_name}-{digest[:12]}"


def model_name(reference: str) -> str:
    """Return what a tag says of a model image: the last part of its name and its tag."""
    name = _images.parse(reference)
    version = name.tag or name.digest[7:19]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{name.path.rsplit('/', 1)[-1]}-{version}")[:60]


class Registry:
    """The private registry, asked directly: no proxy is between it and its machines."""

    def __init__(self, wanted: Wanted, certificates: str = CERTIFICATES) -> None:
        self.wanted = wanted
        self.authority = os.path.join(certificates, wanted.registry, "ca.crt")

    def _ask(self, path: str, accept: str) -> tuple[int, bytes]:
        authority = ""
        if os.path.exists(self.authority):
            with open(self.authority, encoding="utf-8") as file:
                authority = file.read()
        login = (self.wanted.user, self.wanted.password)
        return _registry_api.ask(self.wanted.registry, path, login=login, ca=authority, accept=accept, seconds=60)

    def manifest(self, repository: str, reference: str, accept: str) -> bytes:
        """Return a manifest, nothing where there is none; raises HostError for any other answer."""
        status, body = self._ask(_registry_api.manifest_path(repository, reference), accept)
        if status == 404:
            return b""
        if status != 200:
            who = f"user '{self.wanted.user}'" if self.wanted.user else "nobody in particular"
            raise HostError(f"the registry {self.wanted.registry} answered {who} {status} to {repository}:{reference}")
        return body

    def digest(self, name: _images.Name) -> str:
        """Return the digest of an image here; raises HostError where there is none."""
        if name.digest:
            return name.digest
        manifest = self.manifest(name.path, name.tag, _registry_api.MANIFESTS)
        if not manifest:
            raise HostError(f"the registry {self.wanted.registry} has no image {name.path}:{name.tag}")
        return _images.digest_of(manifest)

    def configuration(self, repository: str, tag: str) -> dict[str, t.Any]:
        """Return the configuration of an image; nothing where there is none."""
        manifest = self.manifest(repository, tag, _registry_api.IMAGES)
        if not manifest:
            return {}
        status, body = self._ask(f"/v2/{repository}/blobs/{json.loads(manifest)['config']['digest']}", "*/*")
        return dict(json.loads(body).get("config") or {}) if status == 200 else {}


def is_whole(configuration: t.Mapping[str, t.Any], digest: str) -> bool:
    """Tell whether an image is made of what is wanted and has its entry point: `docker commit` can lose that."""
    labels = configuration.get("Labels") or {}
    return labels.get(LABEL) == digest and configuration.get("Entrypoint") == ENTRY_POINT


def system(release: str) -> str:
    """Return what is wrong with the system of a model image, given its os-release; nothing where it will do."""
    found = dict(re.findall(r'(?m)^(ID|ID_LIKE|PRETTY_NAME)="?([^"\n]*)"?$', release))
    names = f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".split()
    return "" if set(names).intersection(SYSTEMS) else found.get("PRETTY_NAME") or "a system without a name"


def download(wanted: Wanted, target: str) -> None:
    """Fetch Spark's distribution unless the file is there; raises HostError where it is not what its checksum says."""
    if os.path.exists(target) and checksum(target) == wanted.checksum:
        return
    # What the handler's own rule reads.
    os.environ["no_proxy"] = ",".join(wanted.no_proxy)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(dict(wanted.proxies)))
    part = f"{target}.part"
    try:
        with opener.open(wanted.url, timeout=60) as answer, open(part, "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
    except (OSError, http.client.HTTPException) as exc:
        text = f"HTTP status {exc.code}" if isinstance(exc, urllib.error.HTTPError) else str(exc)
        raise HostError(CREDENTIALS.sub("//***@", f"{wanted.url} cannot be downloaded: {text}")) from None
    found = checksum(part)
    if found != wanted.checksum:
        os.unlink(part)
        raise HostError(f"{wanted.url} has the SHA-512 {found}: it needs to be {wanted.checksum}")
    os.replace(part, target)


def checksum(path: str) -> str:
    """Return a file's SHA-512."""
    found = hashlib.sha512()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


@dataclasses.dataclass
class Outcome:
    """What was done or would be, and the images' full names by role."""

    images: dict[str, str] = dataclasses.field(default_factory=dict)
    digest: str = ""
    actions: list[str] = dataclasses.field(default_factory=list)


class Images:
    """Brings the images into the registry.

    Args:
        wanted: what they are made of.
        check: predict only.
        directory: keeps Spark's distribution, which a later build needs again.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        check: bool = False,
        runner: Runner = run,
        registry: Registry | None = None,
        directory: str = DIRECTORY,
    ) -> None:
        self.wanted = wanted
        self.check = check
        self.runner = runner
        self.registry = registry or Registry(wanted)
        self.directory = directory
        self.login = ""

    def present(self) -> Outcome:
        """Build, prove and push what the registry lacks."""
        with self._logged_in():
            base, model = self._source(self.wanted.base), self._source(self.wanted.model)
            if not base or not model:  # in check mode: they would be pulled
                return Outcome(actions=["build the images"])
            outcome = self._planned(self.wanted.digest(base, model))
            if outcome.actions and not self.check:
                self._make(outcome)
        return outcome

    def _planned(self, digest: str) -> Outcome:
        tag, outcome = self.wanted.tag(digest), Outcome(digest=digest)
        for role in ROLES:
            repository = f"nvidia-spark-{role}"
            outcome.images[role] = f"{self.wanted.registry}/{repository}:{tag}"
            configuration = self.registry.configuration(repository, tag)
            if not is_whole(configuration, digest):
                what = "again: it is not as it was pushed" if configuration else "anew"
                outcome.actions.append(f"push {repository}:{tag} {what}")
        return outcome

    def _source(self, reference: str) -> str:
        """Return the digest of an image that ours stands on: the registry's own word, else the engine's."""
        name = _images.parse(reference)
        if name.host == self.wanted.registry:
            return self.registry.digest(name)
        if name.digest:
            return name.digest
        known = self._known(reference)
        if not known and not self.check:
            self._docker("pull", "--quiet", reference, timeout=self.wanted.timeout)
            known = self._known(reference)
        return known

    def _known(self, reference: str) -> str:
        """Return the digest under which the engine has an image, its own number for one built here, or nothing."""
        done = self.runner(["docker", "image", "inspect", reference], timeout=COMMAND_TIMEOUT)
        if done.rc != 0:
            return ""
        found = json.loads(done.stdout)[0]
        digests = [name.partition("@")[2] for name in found.get("RepoDigests") or []]
        return str(digests[0] if digests else found["Id"])

    def _docker(self, *arguments: str, timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run docker with the registry's login; raises HostError with its reason."""
        done = self.runner(["docker", "--config", self.login, *arguments], timeout=timeout)
        if done.rc != 0:
            raise HostError(f"docker {arguments[0]} {arguments[-1]} failed: {reason(done)}")
        return done

    @contextlib.contextmanager
    def _logged_in(self) -> t.Iterator[None]:
        """Have the login in a file of docker's own form, readable by nobody else, for as long as it takes."""
        with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
            auths = {}
            if self.wanted.user:
                login = f"{self.wanted.user}:{self.wanted.password}".encode()
                auths = {self.wanted.registry: {"auth": base64.b64encode(login).decode()}}
            with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
                json.dump({"auths": auths}, file)
            self.login = directory
            yield

    # Making

    def _make(self, outcome: Outcome) -> None:
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        self._pull()
        self._check_model()
        file = os.path.join(self.directory, f"{self.wanted.distribution}.tgz")
        download(self.wanted, file)
        with tempfile.TemporaryDirectory(prefix="context-", dir=self.directory) as context:
            for name, content in self.wanted.files:
                with open(os.path.join(context, name), "w", encoding="utf-8") as target:
                    target.write(content)
            os.link(file, os.path.join(context, "spark.tgz"))
            for role in ROLES:
                self._build(role, outcome, context)
        self._prove(outcome)
        for role in ROLES:
            self._docker("push", outcome.images[role], timeout=self.wanted.timeout)
        self._forget(outcome)

    def _pull(self) -> None:
        """Have both images: of the registry's own what its name means now."""
        for reference in dict.fromkeys((self.wanted.base, self.wanted.model)):
            own = _images.parse(reference).host == self.wanted.registry
            if own or not self._known(reference):
                self._docker("pull", "--quiet", reference, timeout=self.wanted.timeout)

    def _check_model(self) -> None:
        """Refuse a model image that Debian's Java does not run on. Nothing of it is run."""
        container = self._docker("create", "--network", "none", self.wanted.model, "none").stdout.strip()
        try:
            with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
                file = os.path.join(directory, "os-release")
                done = self.runner(
                    ["docker", "cp", "--follow-link", f"{container}:/etc/os-release", file], timeout=COMMAND_TIMEOUT
                )
                text = _read(file) if done.rc == 0 else ""
        finally:
            self._docker("rm", "--force", container)
        wrong = system(text)
        if wrong:
            raise HostError(
                f"spark_images_model is {self.wanted.model}, which is {wrong}: it needs an image of Debian or Ubuntu"
            )

    def _build(self, role: str, outcome: Outcome, context: str) -> None:
        command = [BUILD_COMMAND] if os.path.exists(BUILD_COMMAND) else ["docker", "build"]
        given = {
            "BASE": self.wanted.base,
            "MODEL": self.wanted.model,
            "JAVA": str(self.wanted.java),
            "SPARK": self.wanted.distribution,
        }
        arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
        arguments += ["--target", role, "--label", f"{LABEL}={outcome.digest}", "--tag", outcome.images[role]]
        done = self.runner([*command, "--quiet", *arguments, context], timeout=self.wanted.timeout)
        if done.rc != 0:
            raise HostError(f"image {outcome.images[role]} cannot be built: {_last_words(done)}")

    # Proving

    def _prove(self, outcome: Outcome) -> None:
        """Refuse images that lost something; they share their layers, so what is in them is looked at once."""
        found = [json.loads(self._docker("image", "inspect", name).stdout)[0] for name in outcome.images.values()]
        for name, image in zip(outcome.images.values(), found, strict=True):
            if not is_whole(image["Config"], outcome.digest):
                raise HostError(f"image {name} was built without its entry point or its label")
        if found[0]["RootFS"]["Layers"] != found[1]["RootFS"]["Layers"]:
            raise HostError(f"the images {' and '.join(outcome.images.values())} do not share their layers")
        said = self._run(self.wanted.model, "--entrypoint", "python3", argv=["-c", HAS_TORCH])
        if said.rc != 0:
            raise HostError(f"the model image {self.wanted.model} has no python3 that runs: {reason(said)}")
        proof = [*"--user 4711:4711 --read-only --tmpfs /tmp".split()]
        done = self._run(outcome.images["driver"], *proof, argv=["bash", "-c", PROOF % _quoted(PYTHON)])
        if done.rc != 0 or done.stdout.split() != ["spark", said.stdout.strip()]:
            raise HostError(
                f"image {outcome.images['driver']} runs no Java, no Python, or not what its model runs: {reason(done)}"
            )

    def _run(self, image: str, *options: str, argv: t.Sequence[str]) -> Result:
        """Run something in a container of its own without a network."""
        label = f"{LABEL_STACK}=spark_images"
        command = ["docker", "run", "--rm", "--network", "none", "--label", label, *options, image, *argv]
        return self.runner(command, timeout=COMMAND_TIMEOUT)

    # Afterwards

    def _forget(self, outcome: Outcome) -> None:
        """Remove what earlier builds left in the engine; without force, so what a container uses stays."""
        for name in self._left():
            if name not in outcome.images.values():
                self.runner(["docker", "image", "rm", name], timeout=COMMAND_TIMEOUT)
        for name in os.listdir(self.directory):
            if name != f"{self.wanted.distribution}.tgz" and name.endswith((".tgz", ".part")):
                os.unlink(os.path.join(self.directory, name))

    def _left(self) -> list[str]:
        """Return the images of all builds that the engine has: by name, or by number where another took the name."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        command = ["docker", "image", "ls", "--filter", f"label={LABEL}", "--format", form]
        lines = [line.split() for line in self.runner(command, timeout=COMMAND_TIMEOUT).stdout.splitlines()]
        return [number if name.endswith(":<none>") else name for name, number in lines]

    def absent(self) -> Outcome:
        """Remove from the machine what building left; what the registry has stays."""
        outcome = Outcome()
        for name in self._left() if shutil.which("docker") else []:
            outcome.actions.append(f"remove image {name}")
            if not self.check:
                self.runner(["docker", "image", "rm", name], timeout=COMMAND_TIMEOUT)
        if os.path.exists(self.directory):
            outcome.actions.append(f"remove {self.directory}")
            if not self.check:
                shutil.rmtree(self.directory)
        return outcome


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 16)


def _quoted(text: str) -> str:
    return '"' + text + '"'


def _last_words(done: Result) -> str:
    """Return what the last step of a build said, without credentials in URLs."""
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("prepare: ")]
    return CREDENTIALS.sub("//***@", " | ".join(ours or lines[-5:]))
