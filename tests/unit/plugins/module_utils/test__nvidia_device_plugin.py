# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's device plugin in a cluster: made, mended, proven, refused with a reason, and taken away again."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _images, _kubernetes
from ansible_collections.slipway.platform.plugins.module_utils import _nvidia_device_plugin as plugin
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

IMAGE = "nvcr.io/nvidia/k8s-device-plugin:v0.19.0"
LABEL = "nvidia.com/gpu.present"
REGISTRY = plugin.Registry(host="reg.corp.lab", port=6001)


def node(name: str = "node1", count: str = "2", *, ready: str = "True", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {LABEL: "true"}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "2", "nvidia.com/gpu": count},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def running(settings: plugin.Settings, where: str = "node1", ready: str = "True", **status: Any) -> dict[str, Any]:
    digest = plugin.documents(settings)[-1]["spec"]["template"]["metadata"]["annotations"][_kubernetes.DIGEST]
    return {
        "metadata": {"name": "plugin-x", "annotations": {_kubernetes.DIGEST: digest}},
        "spec": {"nodeName": where},
        "status": {"conditions": [{"type": "Ready", "status": ready}], **status},
    }


class Stand:
    """kubectl before a cluster of dictionaries."""

    def __init__(self, root: Path) -> None:
        self.places = _kubernetes.Places(f"{root}/")
        Path(self.places.admin).parent.mkdir(parents=True)
        Path(self.places.admin).touch()
        self.lists: dict[str, list[dict[str, Any]]] = {"nodes": [node()]}
        self.single: dict[str, dict[str, Any]] = {}
        self.applied = "daemonset.apps/nvidia-device-plugin unchanged\n"
        self.logs, self.status = "", 200
        self.calls: list[str] = []
        self.items: list[dict[str, Any]] = []
        self.slept = 0

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout
        words = [word for word in argv[len(_kubernetes.SCRUBBED) + 3 :] if not word.startswith("--output")]
        self.calls.append(" ".join(words))
        if words[0] == "apply":
            self.items = json.loads(stdin or "{}")["items"]
            return Result(0, self.applied, "")
        if words[0] == "logs":
            return Result(0, self.logs, "")
        if words[0] == "get" and words[1] in ("namespace", "runtimeclass"):
            found = self.single.get(words[1])
            return Result(0, json.dumps(found) if found else "", "")
        if words[0] == "get":
            return Result(0, json.dumps({"items": self.lists.get(words[1], [])}), "")
        return Result(0, "", "")

    def at(self, *, check: bool = False) -> plugin.DevicePlugin:
        return plugin.DevicePlugin(
            check=check,
            runner=self,
            places=self.places,
            pause=self.pause,
            status=lambda registry, image: self.status if (registry, str(image)) == (REGISTRY, IMAGE) else -1,
        )

    def pause(self, seconds: float) -> None:
        del seconds
        self.slept += 1

    def did(self, word: str) -> list[str]:
        return [call for call in self.calls if call.startswith(word)]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def settings(**values: Any) -> plugin.Settings:
    return plugin.Settings(**{"image": IMAGE, "registry": REGISTRY, **values})


def environment(made: list[dict[str, Any]]) -> dict[str, str]:
    container = made[-1]["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item["value"] for item in container["env"]}


# --- Objects ----------------------------------------------------------------------------------------------------


def test_the_plugin_runs_where_a_label_says_so_and_by_the_runtime_class() -> None:
    (made,) = plugin.documents(settings(node_labels=("a", "b"), tolerations=({"key": "t", "operator": "Exists"},)))
    pod = made["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchExpressions"][0]["key"] for term in terms] == ["a", "b"], "either will do"
    assert (pod["runtimeClassName"], pod["tolerations"]) == ("nvidia", [{"key": "t", "operator": "Exists"}])
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert environment([made])["DEVICE_LIST_STRATEGY"] == "cdi-cri,envvar"
    assert "CONFIG_FILE" not in environment([made])


def test_a_configuration_is_passed_on_and_makes_new_pods() -> None:
    config = {"sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 4}]}}}
    made = plugin.documents(settings(config=config))
    assert json.loads(made[0]["data"]["config.yaml"]) == {"version": "v1", **config}
    assert environment(made)["CONFIG_FILE"] == "/config/config.yaml"
    config["sharing"]["timeSlicing"]["resources"][0]["replicas"] = 5
    again = plugin.documents(settings(config=config))
    digests = [one[-1]["spec"]["template"]["metadata"]["annotations"][_kubernetes.DIGEST] for one in (made, again)]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("taint", "toleration", "tolerated"),
    [
        ({"key": "gpu", "effect": "NoSchedule"}, None, False),
        ({"key": "gpu", "effect": "PreferNoSchedule"}, None, True),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, None, True),
        ({"key": "gpu", "effect": "NoSchedule"}, {"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "effect": "NoSchedule"}, {"operator": "Exists"}, True),
        ({"key": "gpu", "effect": "NoSchedule"}, {"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "value": "a", "effect": "NoSchedule"}, {"key": "gpu", "value": "b"}, False),
        ({"key": "gpu", "value": "a", "effect": "NoSchedule"}, {"key": "gpu", "value": "a"}, True),
    ],
)
def test_tolerations(taint: dict[str, Any], toleration: dict[str, Any] | None, tolerated: bool) -> None:
    assert plugin.tolerates(taint, [toleration] if toleration else []) is tolerated


def test_only_nodes_that_can_are_waited_for() -> None:
    tainted = node("tainted", taints=[{"key": "x", "effect": "NoSchedule"}])
    plain = {**node("plain"), "metadata": {"name": "plain"}}
    found = plugin.wanted_nodes(
        settings(node_labels=(LABEL,)), [node("good"), node("dead", ready="Unknown"), tainted, plain]
    )
    assert [one["metadata"]["name"] for one in found] == ["good"]


# --- Present ----------------------------------------------------------------------------------------------------


def test_all_is_made_and_waited_for(stand: Stand) -> None:
    stand.applied = "namespace/x created\nruntimeclass.node.k8s.io/nvidia created\ndaemonset.apps/x configured\n"
    wanted = settings(seconds=60)
    stand.lists["pods"] = []
    late = iter([[], [running(wanted, ready="False")], [running(wanted)]])
    host = stand.at()
    host.pause = lambda _: stand.lists.update(pods=next(late))  # type: ignore[method-assign]
    outcome = host.present(wanted)
    assert [item["kind"] for item in stand.items] == ["Namespace", "RuntimeClass", "DaemonSet"]
    assert outcome.actions == [
        "created namespace/x",
        "created runtimeclass.node.k8s.io/nvidia",
        "configured daemonset.apps/x",
    ]
    assert outcome.gpus == {"node1": 2}


def test_a_second_run_changes_nothing(stand: Stand) -> None:
    wanted = settings(seconds=60)
    stand.lists["pods"] = [running(wanted)]
    stand.single = {"namespace": plugin.namespace(plugin.NAME), "runtimeclass": plugin.runtime_class()}
    assert not stand.at().present(wanted).changed


def test_what_was_there_before_stays_as_it_is(stand: Stand) -> None:
    stand.single = {
        "namespace": {"metadata": {"name": "kube-system"}},
        "runtimeclass": {"metadata": {"name": "nvidia"}, "handler": "nvidia"},
    }
    stand.at().present(settings(namespace="kube-system"))
    assert [item["kind"] for item in stand.items] == ["DaemonSet"]


def test_what_an_earlier_run_made_elsewhere_goes(stand: Stand) -> None:
    old = {"kind": "DaemonSet", "metadata": {"name": plugin.NAME, "namespace": "old", "labels": plugin.MANAGED}}
    config = {"kind": "ConfigMap", "metadata": {"name": plugin.NAME, "namespace": plugin.NAME}}
    stand.lists["daemonset,configmap"] = [old, config]
    outcome = stand.at().present(settings())
    assert outcome.actions == ["delete daemonset nvidia-device-plugin", "delete configmap nvidia-device-plugin"]
    assert stand.did("delete")[0].startswith("delete daemonset nvidia-device-plugin --namespace=old")


def test_check_mode_asks_and_changes_nothing(stand: Stand) -> None:
    stand.applied = "daemonset.apps/x created (dry run)\n"
    assert stand.at(check=True).present(settings(seconds=60)).actions == ["created daemonset.apps/x"]
    assert "--dry-run=client" in stand.did("apply")[0], "the namespace is not there yet"
    stand.single["namespace"] = plugin.namespace(plugin.NAME)
    stand.at(check=True).present(settings())
    assert "--dry-run=server" in stand.did("apply")[1]
    Path(stand.places.admin).unlink()
    outcome = stand.at(check=True).present(settings())
    assert outcome.actions == [
        "create the RuntimeClass nvidia and the DaemonSet nvidia-device-plugin/nvidia-device-plugin"
    ]


# --- Refusals ---------------------------------------------------------------------------------------------------


def test_an_image_that_the_registry_lacks(stand: Stand) -> None:
    stand.status = 404
    with pytest.raises(
        HostError, match=r"v0\.19\.0 is not in reg\.corp\.lab:6001 \(as nvidia/k8s-device-plugin:v0\.19\.0\)"
    ):
        stand.at().present(settings())
    stand.status = 401
    with pytest.raises(
        HostError, match=r"reg\.corp\.lab:6001 does not show nvidia/k8s-device-plugin:v0\.19\.0 to a stranger"
    ):
        stand.at().present(settings())
    assert stand.did("apply") == []
    stand.status = 0
    stand.at().present(settings())
    stand.at().present(settings(registry=plugin.Registry()))
    with pytest.raises(HostError, match="image 'x' cannot run: it needs a tag or a digest"):
        stand.at().present(settings(image="x"))


def test_another_plugin(stand: Stand) -> None:
    spec = {"template": {"spec": {"containers": [{"image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.1"}]}}}
    other = {"metadata": {"namespace": "gpu-operator", "name": "nvidia-plugin"}, "spec": spec}
    stand.lists["daemonsets"] = [other]
    with pytest.raises(HostError, match="the DaemonSet gpu-operator/nvidia-plugin runs NVIDIA's device plugin already"):
        stand.at().present(settings())
    other["metadata"]["labels"] = plugin.MANAGED
    stand.at().present(settings())


def test_a_runtime_class_of_another_handler(stand: Stand) -> None:
    stand.single["runtimeclass"] = {"metadata": {"name": "nvidia"}, "handler": "kata"}
    with pytest.raises(HostError, match="the RuntimeClass nvidia has the handler kata"):
        stand.at().present(settings())


@pytest.mark.parametrize(
    ("pods", "logs", "said"),
    [
        ([], "", "the DaemonSet nvidia-device-plugin/nvidia-device-plugin has made no pod there"),
        (
            [{"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]}],
            "",
            "it cannot pull nvcr.io/nvidia/k8s-device-plugin:v0.19.0: that needs the image in the private registry "
            "(registry_mirror_images), and nvcr.io in registry_trust_mirrors: not found",
        ),
        (
            [{"containerStatuses": [{"ready": True}, {"state": {"terminated": {"reason": "Error"}}}]}],
            "one\nno GPU is in this container\n",
            "the plugin (Error) says: no GPU is in this container",
        ),
        ([{"containerStatuses": [{"state": {}}]}], "", "the plugin (it has not started) says: it says nothing"),
        ([{}], "", "the plugin says: it says nothing"),
    ],
)
def test_a_node_that_offers_none(stand: Stand, pods: list[dict[str, Any]], logs: str, said: str) -> None:
    wanted = settings(seconds=1e-9)
    stand.logs = logs
    stand.lists["pods"] = [running(wanted, ready="False", **status) for status in pods]
    with pytest.raises(HostError) as failed:
        stand.at().present(wanted)
    assert str(failed.value) == f"node node1 offers no GPU after 1e-09 seconds: {said}"


# --- Absent -----------------------------------------------------------------------------------------------------


def test_all_that_is_ours_goes(stand: Stand) -> None:
    stand.lists["daemonset,configmap,runtimeclass,namespace"] = [
        {**plugin.namespace(plugin.NAME)},
        {**plugin.runtime_class()},
        *plugin.documents(settings()),
    ]
    outcome = stand.at().absent()
    assert outcome.actions == [
        "delete daemonset nvidia-device-plugin",
        "delete runtimeclass nvidia",
        "delete namespace nvidia-device-plugin",
    ]
    assert len(stand.did("delete")) == 3
    stand.lists.clear()
    assert not stand.at().absent().changed
    Path(stand.places.admin).unlink()
    assert not stand.at().absent().changed


# --- The registry -----------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[tuple[str, str, str]]]]:
    """A registry over plain HTTP, reached as if it were TLS; keeps path, login and what it accepts."""
    asked: list[tuple[str, str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", ""), self.headers["Accept"][:33]))
            self.send_response(200 if "v0.19.0" in self.path else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request = urllib.request.Request
    monkeypatch.setattr(
        urllib.request, "Request", lambda url, **named: request(url.replace("https:", "http:"), **named)
    )
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


def test_the_registry_is_asked_without_a_proxy(registry: tuple[int, list[tuple[str, str, str]]]) -> None:
    port, asked = registry
    there = plugin.Registry(host="127.0.0.1", port=port, user="puller", password="s:cret")
    assert there.status(_images.parse(IMAGE)) == 200
    assert there.status(_images.parse("docker.io/library/plugin:1")) == 404
    assert asked[0] == (
        "/v2/nvidia/k8s-device-plugin/manifests/v0.19.0",
        "Basic cHVsbGVyOnM6Y3JldA==",
        "application/vnd.docker.distributi",
    )
    assert asked[1][0] == "/v2/plugin/manifests/1"
    assert "s:cret" not in repr(there)
    digest = "sha256:" + "0" * 64
    plugin.Registry(host="127.0.0.1", port=port).status(_images.parse(f"{IMAGE}@{digest}"))
    assert asked[2][:2] == (f"/v2/nvidia/k8s-device-plugin/manifests/{digest}", "")


def test_a_registry_that_does_not_answer() -> None:
    assert plugin.Registry(host="127.0.0.1", port=1).status(_images.parse(IMAGE)) == 0
    with pytest.raises(HostError, match=r"the authority of the private registry 127\.0\.0\.1:1 is no certificate"):
        plugin.Registry(host="127.0.0.1", port=1, ca="no certificate").status(_images.parse(IMAGE))
