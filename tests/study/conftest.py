"""A PostgreSQL server of the tests' own, on loopback, for as long as they run."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

WANTED = "SMARTFAST_TEST_POSTGRESQL"
"""Set where the server is installed, so that its tests must run."""
DEBIAN = Path("/usr/lib/postgresql")
USER = "postgres"  # Debian's; the server refuses to run as root


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of an empty database, as --storage takes it."""
    programs = _programs()
    missing = "no PostgreSQL server (Debian: postgresql)" if programs is None else ""
    missing = missing or ("" if find_spec("psycopg") else "no driver (pip install 'psycopg[binary]')")
    if missing and WANTED in os.environ:
        pytest.fail(f"{WANTED} is set, and there is {missing}")
    if missing:
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="smartfast-postgresql-"))  # pytest's own are closed to other users
    try:
        user = USER if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        password, port = secrets.token_hex(8), _free_port()

        def call(program: str, *arguments: str) -> None:
            command = [programs / program, "--pgdata", folder / "data", *arguments]
            log = folder / f"{program}.log"
            with log.open("ab") as file:  # a pipe would stay open in the server
                status = subprocess.run(
                    command, stdout=file, stderr=file, user=user, cwd=folder, check=False
                ).returncode
            assert status == 0, log.read_text()

        (folder / "password").write_text(password)
        shutil.chown(folder / "password", user) if user else None
        own = ("--username", "smartfast", "--pwfile", str(folder / "password"), "--auth", "scram-sha-256")
        call("initdb", *own, "--encoding", "UTF8", "--locale", "C", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "start", "--wait", "--options", options)
        try:
            yield f"postgresql://smartfast:{password}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "stop", "--mode", "immediate")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian does not put on the path."""
    on_path = shutil.which("pg_ctl")
    if on_path:
        return Path(on_path).parent
    return max((path.parent for path in DEBIAN.glob("*/bin/pg_ctl")), key=lambda p: int(p.parent.name), default=None)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
