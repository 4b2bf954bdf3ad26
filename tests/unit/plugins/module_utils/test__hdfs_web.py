# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of a NameNode's answers, and what of none."""

from __future__ import annotations

import http.server
import threading

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_web
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.unit.plugins.module_utils.hdfs_namenode import NameNode, live

ADDRESS = "name:9870"


def test_the_view_holds_every_datanode() -> None:
    leaving = live("Decommission In Progress", 9)
    dead = {"gone": {"decommissioned": True}, "dead": {"adminState": "In Service"}}
    node = NameNode(live={"a": live(blocks=3), "b": leaving}, dead=dead)
    node.leaving = {"b": {"underReplicatedBlocks": 4}}
    view = _hdfs_web.view(ADDRESS, node)
    assert view is not None and view.active and view.cluster == "CID-1"
    assert (view.nodes["a"].blocks, view.nodes["b"].moving) == (3, 4)
    assert view.nodes["gone"].state == "Decommissioned" and not view.nodes["dead"].live


@pytest.mark.parametrize("answer", [(500, b""), (200, b"no JSON"), (200, b'{"beans": []}'), (200, b"{}")])
def test_no_answer_is_no_view(answer: tuple[int, bytes]) -> None:
    assert _hdfs_web.view(ADDRESS, lambda _method, _url: answer) is None


def test_an_odd_answer_is_no_view() -> None:
    assert _hdfs_web.view(ADDRESS, NameNode(live={"a": {"numBlocks": "many"}})) is None


def test_waiting_for_a_namenode() -> None:
    node = NameNode(up=False)

    def pause(_seconds: float) -> None:
        node.up = True

    assert _hdfs_web.wait_for_view(ADDRESS, seconds=30, fetch=node, pause=pause).active
    with pytest.raises(HostError, match="does not serve after 0 seconds"):
        _hdfs_web.wait_for_view(ADDRESS, seconds=0, fetch=NameNode(state="standby"))


def test_directories_by_webhdfs(monkeypatch: pytest.MonkeyPatch) -> None:
    node = NameNode(up=False)
    system = _hdfs_web.FileSystem(ADDRESS, "hdfs", fetch=node, pause=lambda _: setattr(node, "up", True))
    assert system.status("/user/a b") is None
    system.change("/user/a b", "MKDIRS", permission="755")
    found = system.status("/user/a b")
    assert found is not None and found["owner"] == "hdfs"
    node.refuses = "Name node is in safe mode."
    with pytest.raises(HostError, match=r"/x in HDFS: Name node is in safe mode\.$"):
        system.status("/x")
    node.up = False
    monkeypatch.setattr(_hdfs_web, "PATIENCE", 0.0)
    with pytest.raises(HostError, match="GETFILESTATUS of /x failed"):
        system.status("/x")


def test_requests_go_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/good" else 404)
            self.end_headers()
            self.wfile.write(b"text")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert _hdfs_web.fetch("GET", f"{base}/good") == (200, b"text")
        assert _hdfs_web.fetch("GET", f"{base}/bad") == (404, b"text")
        server.shutdown()


def test_which_of_two_serves() -> None:
    nodes = {"a": NameNode(state="standby"), "b": NameNode(live={"x": live(blocks=2)})}

    def fetch(method: str, url: str) -> tuple[int, bytes]:
        return nodes[url.removeprefix("http://")[0]](method, url)

    seen = _hdfs_web.active_view(["a:1", "b:1"], fetch)
    assert seen is not None and seen.nodes["x"].blocks == 2
    assert _hdfs_web.wait_for_active(["a:1", "b:1"], seconds=0, fetch=fetch) == "b:1"
    nodes["b"].up = False
    assert _hdfs_web.active_view(["a:1", "b:1"], fetch) is None
    comes = iter([False, True])

    def pause(_seconds: float) -> None:
        nodes["b"].up = next(comes)

    assert _hdfs_web.wait_for_active(["a:1", "b:1"], seconds=60, fetch=fetch, pause=pause) == "b:1"
    nodes["b"].up = False
    with pytest.raises(HostError, match="no NameNode at a:1 or b:1 serves after 0 seconds"):
        _hdfs_web.wait_for_active(["a:1", "b:1"], seconds=0, fetch=fetch)
