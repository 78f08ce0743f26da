"""The client with huggingface_hub itself, if it is installed, and a Hub on loopback."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from parfocal.hub.repository import Repository

REPOSITORY = Repository("lab", "model")
TOKEN = "hf_only-for-this-test"


@dataclass
class Hub:
    """What a Hub on loopback has received."""

    files: dict[str, bytes] = field(default_factory=dict)
    exists: bool = False
    private: bool = False
    address: str = ""
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
def hub() -> Iterator[Hub]:
    """A Hub on loopback; tests without huggingface_hub are skipped."""
    if find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")
    running = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(running))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    running.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def call(hub: Hub, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a program with the client in a process of its own.

    huggingface_hub reads its environment when it is imported. The function returns what the program
    prints, or the message of a HubError.
    """

    def run(program: str, **environment: str) -> str:
        code = (
            "from parfocal.hub.client import *\n"
            "from parfocal.hub.repository import *\n"
            'REPOSITORY = Repository("lab", "model")\n'
            f"try:\n    {program}\nexcept HubError as error:\n    print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.address,
                "HF_HOME": str(tmp_path / "home"),
                "HF_TOKEN": TOKEN,
                "HF_HUB_DISABLE_XET": "1",
                **environment,
            },
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout.strip()

    return run


def test_files_that_are_uploaded_come_back(hub: Hub, call: Callable[..., str]):
    files = {"config.json": b"{}", "model.safetensors": bytes(range(200)), "README.md": b"# x"}
    assert call("print(visibility(REPOSITORY), endpoint())") == f"None {hub.address}"
    uploaded = call(f"print(upload(REPOSITORY, {files!r}, private=True))")
    assert uploaded == f"{hub.address}/lab/model/commit/{hub.sha}"
    assert hub.files == files
    assert call("print(visibility(REPOSITORY))") == "private"
    folder = Path(call('print(download(REPOSITORY, ["config.json", "model.safetensors"]))'))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: files[name] for name in ("config.json", "model.safetensors")
    }
    assert f"Bearer {TOKEN}" in hub.tokens


def test_offline_a_model_comes_from_the_cache_or_not_at_all(hub: Hub, call: Callable[..., str]):
    hub.exists, hub.files = True, {"config.json": b"{}"}
    first = call('print(download(REPOSITORY, ["config.json"]))')
    hub.tokens.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    assert call('print(download(REPOSITORY, ["config.json"]))', **offline) == first
    for program in (
        'download(Repository("lab", "other"), ["config.json"])',
        "visibility(REPOSITORY)",
        'upload(REPOSITORY, {"a": b"b"}, private=True)',
    ):
        message = call(program, **offline)
        assert "HF_HUB_OFFLINE is set, and it is not in the cache" in message
        assert "\n" not in message
    assert not hub.tokens


def test_a_repository_or_revision_that_is_not_there_is_one_line(hub: Hub, call: Callable[..., str]):
    message = call('download(REPOSITORY, ["config.json"])')
    assert message.startswith("hf:lab/model: no such repository, or it is private")
    hub.exists = True
    message = call('download(Repository("lab", "model", "none"), ["config.json"])')
    assert message.startswith("hf:lab/model@none: it has no such revision")
