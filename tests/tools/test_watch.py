"""`smartfast watch`: which runs, what is served to whom, and that nothing in the folders is touched."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.errors import UserError
from smartfast.tools.serving import open_server
from smartfast.tools.watch import Watched, WatchOptions, find_runs, shown_names, watch

Get = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def runs(tmp_path: Path, make_checkpoint: Callable) -> list[Path]:
    """Two run folders of the same name, with a picture, and one secret beside them."""
    found = []
    for name in ("a", "b"):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text(
            '{"kind": "metrics", "kimg": 1.0, "features": "digits", "metric/fd_digits": 3}\n'
        )
        (run / "config.yaml").write_text(f"run: {{dir: {name}, kimg: 4}}\n")
        (run / "fakes000001.png").write_bytes(b"picture of " + name.encode())
        found.append(run)
    (found[0] / "checkpoints").symlink_to(make_checkpoint() / "checkpoints")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (found[0] / "fakes000002.png").symlink_to(tmp_path / "secret.png")
    return found


@pytest.fixture
def get(runs: list[Path]) -> Iterator[Get]:
    """get(path, method="GET", **headers): status, headers and body of the server's answer."""
    server = open_server(Watched(find_runs([str(run) for run in runs])).answer, 0)
    assert server.server_address[0] == "127.0.0.1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    yield get
    server.shutdown()
    server.server_close()


def test_the_page_the_data_and_the_pictures(get: Get) -> None:
    status, headers, page = get("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and b'"live":true' in page
    assert b'["a/run","b/run"]' in page
    status, headers, text = get("/runs/1.json")
    assert status == 200 and headers["Content-Type"] == "application/json"
    data = json.loads(text)
    assert data["settings"] == {"run.dir": "b", "run.kimg": "4"} and data["progress"]["kimg"] == 1
    assert get("/" + data["sheets"][0]["src"])[2] == b"picture of b"
    status, headers, body = get("/runs/1.json", "HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) == len(text)


def test_what_has_not_changed_is_not_sent_again(get: Get, runs: list[Path]) -> None:
    tag = get("/runs/0.json")[1]["ETag"]
    assert get("/runs/0.json", If_None_Match=tag)[::2] == (304, b"")
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "warning", "kimg": 2.0, "signature": "collapse", "line": "x"}\n')
    status, _, text = get("/runs/0.json", If_None_Match=tag)
    assert status == 200 and json.loads(text)["warnings"] == [["2 kimg, collapse", "x"]]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.:1", "[::1]"]
)
def test_a_name_that_leads_here_is_refused(get: Get, host: str) -> None:
    for path in ("/", "/runs/0.json", "/runs/0/fakes000001.png"):
        status, _, body = get(path, Host=host)
        assert status == 403 and b"run" not in body


def test_a_page_of_another_site_is_refused(get: Get) -> None:
    assert get("/runs/0.json", Sec_Fetch_Site="cross-site")[0] == 403
    assert get("/runs/0.json", Sec_Fetch_Site="same-site")[0] == 403
    assert get("/runs/0.json", Sec_Fetch_Site="same-origin")[0] == 200
    assert get("/", Host="localhost:7000")[0] == 200  # a port that ssh forwards
    assert "Access-Control-Allow-Origin" not in get("/")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/runs/0/../../secret.png",
        "/runs/0/..%2f..%2fsecret.png",
        "/runs/0/%2e%2e/secret.png",
        "/runs/0/fakes000002.png",  # a link out of the folder
        "/runs/0/config.yaml",
        "/runs/0/checkpoints/000002.000/checkpoint.json",
        "/runs/0/fakes000009.png",
        "/runs/2.json",
        "/runs/-1.json",
        "/runs/0",
        "/runs/99999999999.json",
        "//etc/passwd",
        "/etc/passwd",
        "/report.html",
    ],
)
def test_nothing_else_is_served(get: Get, path: str) -> None:
    status, _, body = get(path)
    assert status == 404 and b"secret" not in body and b"root" not in body


def test_nothing_but_reading_is_understood(get: Get) -> None:
    assert get("/", "POST")[0] == get("/runs/0.json", "DELETE")[0] == 501


def test_watching_leaves_a_folder_as_it_was(get: Get, runs: list[Path]) -> None:
    def state() -> list[tuple[str, int, bytes]]:
        files = sorted(path for path in runs[0].parent.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_mtime_ns, path.read_bytes()) for path in files]

    before = state()
    for path in ("/", "/runs/0.json", "/runs/0/fakes000001.png"):
        assert get(path)[0] == 200
    assert state() == before


def test_a_folder_that_goes_away_and_comes_back(get: Get, runs: list[Path]) -> None:
    """A run that is deleted under the page has nothing to show; others do not suffer."""
    away = runs[1].rename(runs[1].with_name("away"))
    status, _, text = get("/runs/1.json")
    assert status == 200 and json.loads(text)["sheets"] == []
    away.rename(runs[1])
    assert len(json.loads(get("/runs/1.json")[2])["sheets"]) == 1


def test_runs_are_found_in_folders_too_and_each_once(runs: list[Path], tmp_path: Path) -> None:
    wanted = [run.resolve() for run in runs]
    assert find_runs([str(tmp_path / "a"), str(runs[1]), str(runs[0])]) == wanted
    assert shown_names(wanted) == ["a/run", "b/run"] and shown_names(wanted[:1]) == ["run"]
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere", "secret.png"):
        with pytest.raises(UserError, match=f"{folder}: expected a run folder or a folder of some, found neither"):
            find_runs([str(tmp_path / folder)])


def test_a_port_that_is_taken_is_one_line(runs: list[Path]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match=r"^port: \d+ of 127.0.0.1: .*expected a free one; 0 takes any$"):
            watch([str(runs[0])], WatchOptions(port=other.getsockname()[1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "watch: found no folder"),
        (["nowhere"], "nowhere: expected a run folder"),
        (["x", "--port", "70000"], "port is 70000, expected a whole number from 0 to 65535"),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["watch", *arguments]) == 2
    assert message in capsys.readouterr().err
