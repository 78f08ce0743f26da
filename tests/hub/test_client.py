"""The client with huggingface_hub itself, if it is installed, and a Hub on loopback."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from parfocal.hub import client
from parfocal.hub.repository import HubError, Repository

REPOSITORY = Repository("lab", "model")
TOKEN = "hf_only-for-this-test"


@dataclass
class Hub:
    """What a Hub on loopback has received."""

    files: dict[str, bytes] = field(default_factory=dict)
    exists: bool = False
    private: bool = False
    tokens: set[str | None] = field(default_factory=set)

    @property
    def sha(self) -> str:
        """The commit of the files."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def info(self) -> dict[str, object]:
        """Return what the Hub says about the repository."""
        siblings = [{"rfilename": name} for name in self.files]
        return {
            "id": REPOSITORY.id,
            "modelId": REPOSITORY.id,
            "sha": self.sha,
            "private": self.private,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self) -> list[dict[str, object]]:
        """Return the list of the files."""
        return [
            {"type": "file", "path": name, "size": len(content), "oid": name}
            for name, content in self.files.items()
        ]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, content: object = None, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            path = self.path.split("?")[0]
            if path.startswith("/api/models/") and hub.exists:
                if path.endswith("/revision/none"):
                    self.reply({}, 404, X_Error_Code="RevisionNotFound")
                    return
                self.reply(hub.tree() if "/tree/" in path else hub.info())
            elif hub.exists and "/resolve/" in path:
                content = hub.files[path.rpartition("/")[2]]
                etag = hashlib.sha1(content).hexdigest()
                self.reply(content, ETag=f'"{etag}"', X_Repo_Commit=hub.sha)
            else:
                self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.split("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(body)
                hub.exists = True
                hub.private = asked.get("private") or asked.get("visibility") == "private"
                self.reply({"url": f"http://{self.headers['Host']}/{REPOSITORY.id}"})
            elif "/preupload/" in path:
                names = [each["path"] for each in json.loads(body)["files"]]
                files = [
                    {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                ]
                self.reply({"files": files})
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.files[line["value"]["path"]] = content
                url = f"http://{self.headers['Host']}/{REPOSITORY.id}/commit/{hub.sha}"
                self.reply({"commitUrl": url, "commitOid": hub.sha})
            elif path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            else:
                self.reply({}, 404)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub that huggingface_hub uses, with a token, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    api = pytest.importorskip("huggingface_hub.hf_api").api
    running = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(running))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    # The package reads its environment when it is imported.
    for name, value in (
        ("ENDPOINT", endpoint),
        ("HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value, raising=False)
    monkeypatch.setattr(api, "endpoint", endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_that_are_uploaded_come_back(hub: Hub):
    files = {"config.json": b"{}", "model.safetensors": bytes(range(200)), "README.md": b"# x"}
    assert client.visibility(REPOSITORY) is None
    assert client.upload(REPOSITORY, files, private=True).endswith(f"lab/model/commit/{hub.sha}")
    assert hub.files == files
    assert client.visibility(REPOSITORY) == "private"
    folder = client.download(REPOSITORY, ["config.json", "model.safetensors"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: files[name] for name in ("config.json", "model.safetensors")
    }
    assert f"Bearer {TOKEN}" in hub.tokens


def test_offline_a_model_comes_from_the_cache_or_not_at_all(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    constants = pytest.importorskip("huggingface_hub.constants")
    hub.exists, hub.files = True, {"config.json": b"{}"}
    client.download(REPOSITORY, ["config.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.tokens.clear()
    assert (client.download(REPOSITORY, ["config.json"]) / "config.json").read_bytes() == b"{}"
    for attempt in (
        lambda: client.download(Repository("lab", "other"), ["config.json"]),
        lambda: client.visibility(REPOSITORY),
        lambda: client.upload(REPOSITORY, {"a": b"b"}, private=True),
    ):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
            attempt()
    assert not hub.tokens


def test_a_repository_or_revision_that_is_not_there_is_one_line(hub: Hub):
    with pytest.raises(HubError, match="hf:lab/model: no such repository, or it is private"):
        client.download(REPOSITORY, ["config.json"])
    hub.exists = True
    with pytest.raises(HubError, match="hf:lab/model@none: it has no such revision"):
        client.download(Repository("lab", "model", "none"), ["config.json"])
