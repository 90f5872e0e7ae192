"""A stand-in of the Hugging Face hub: `python hub_stand_in.py FOLDER` keeps repositories in it and prints its port.

It answers the calls by which a repository is made, files are sent as one commit (small ones inside it, large ones by
LFS), listed and fetched. Whoever has another token than hf_owner is refused.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = Path(sys.argv[1])
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.read()
        if self.headers.get("Authorization") != "Bearer hf_owner":
            return self.send(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            (FOLDER / name).mkdir(parents=True, exist_ok=True)
            is_private = (
                wanted.get("private") or wanted.get("visibility") == "private"
            )  # as older and newer clients ask
            (FOLDER / name / ".private").write_text(json.dumps(is_private))
            return self.send(200, {"url": f"http://{self.headers['Host']}/{name}"})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        repository = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            found = [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith("safetensors")], "shouldIgnore": False}
                for f in files
            ]
            return self.send(200, {"files": found})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.send_places(json.loads(body)["objects"])
        if path.endswith("/commit/main"):
            for line in body.splitlines():
                self.take(FOLDER / repository, json.loads(line))
            address = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
            return self.send(200, {"commitUrl": address, "commitOid": COMMIT, "success": True})
        return self.send(404, {"error": f"POST {path}"})

    def send_places(self, objects: list[dict]) -> None:
        place = f"http://{self.headers['Host']}/lfs/"
        found = [{**o, "actions": {"upload": {"href": place + o["oid"], "header": {}}}} for o in objects]
        self.send(200, {"transfer": "basic", "objects": found})

    def take(self, repository: Path, line: dict) -> None:
        value = line["value"]
        if line["key"] == "file":
            (repository / value["path"]).write_bytes(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            (repository / value["path"]).write_bytes((FOLDER / value["oid"]).read_bytes())
        elif line["key"] == "deletedFile":
            (repository / value["path"]).unlink()

    def do_PUT(self) -> None:
        content = self.read()
        assert urlsplit(self.path).path == f"/lfs/{hashlib.sha256(content).hexdigest()}"
        (FOLDER / hashlib.sha256(content).hexdigest()).write_bytes(content)
        self.send(200, {})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/"):
            repository = FOLDER / parts[2] / parts[3]
            if not repository.is_dir():
                return self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            names = sorted(file.name for file in repository.iterdir() if file.name != ".private")
            if "tree" in parts:
                listed = [self.entry(repository / name) for name in names]
                return self.send(200, listed)
            siblings = [{"rfilename": name} for name in names]
            return self.send(200, {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "private": True})
        if len(parts) == 5 and parts[2] == "resolve" and (FOLDER / parts[0] / parts[1] / parts[4]).is_file():
            return self.send_file(FOLDER / parts[0] / parts[1] / parts[4])
        return self.send(404, {"error": f"GET {path}"})

    do_HEAD = do_GET

    def entry(self, file: Path) -> dict:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}

    def send_file(self, file: Path) -> None:
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, answer: object, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, format: str, *arguments: object) -> None:
        if "404" in [str(argument) for argument in arguments]:
            print(self.command, self.path, file=sys.stderr, flush=True)


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_address[1], flush=True)
server.serve_forever()
