# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pg_ssl by the playbook harden, judged from outside: psql, openssl, pgbench, and the drivers that Python has."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import psycopg
import pytest
import sqlalchemy
from cryptography.hazmat.primitives import serialization
from django.conf import settings as django_settings
from django.db.utils import ConnectionHandler

from tests import pki, servers
from tests.integration import module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

PASSWORD = "a password for the tests"
PLAYBOOK = Path(__file__).resolve().parents[2] / "playbooks" / "harden.yml"
HBA = """\
local   all all              trust
hostssl all app 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 cert
"""


class Estate:
    """A server, its inventory, and the controller's directory."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.hosts: dict[str, dict[str, Any]] = {}
        self.clients = directory / "ca" / "clients"
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "bulwark_become": False,
            "bulwark_login_unix_socket": server.host,
            "bulwark_login_port": server.port,
            "bulwark_login_user": server.superuser,
            "pg_ssl_ca_directory": str(directory / "ca"),
            "pg_ssl_csr_directory": str(directory / "requests"),
            "pg_ssl_ca_passphrase": "the passphrase of the tests",
        }

    def harden(self, *flags: str) -> dict[str, int]:
        """Run the role by the playbook; its recap. The passphrase is nowhere in what it prints."""
        inventory = self.directory / "inventory.json"
        inventory.write_text(json.dumps({"postgresql": {"hosts": self.hosts or {"localhost": self.variables}}}), encoding="utf-8")
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(PLAYBOOK), "--tags", "pg_ssl", "--diff", *flags]
        done = subprocess.run(command, env=module.environment(), capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL)
        self.output = done.stdout + done.stderr
        assert "the passphrase of the tests" not in self.output
        assert "PRIVATE KEY" not in self.output
        found = re.findall(r"^\S+ +: ok=(\d+) +changed=(\d+) .*failed=(\d+)", done.stdout, re.MULTILINE)
        assert found, self.output
        return dict(zip(("ok", "changed", "failed"), (max(map(int, column)) for column in zip(*found))))

    def converge(self, *, foretold: bool = False) -> None:
        """The run changes something, another nothing, in few tasks. foretold: check mode has to say both before."""
        if foretold:
            assert self.harden("--check")["changed"] > 0, self.output
        done = self.harden()
        assert done["failed"] == 0, self.output
        assert done["changed"] > 0
        again = self.harden()
        assert again["changed"] == 0, self.output
        own = re.findall(r"^TASK \[bulwark\.postgresql\.pg_ssl : (?!Validating).*\n(?:ok|changed): ", self.output, re.MULTILINE)
        assert len(own) <= 2, self.output
        if foretold:
            assert self.harden("--check")["changed"] == 0

    def psql(self, *, check_files: bool = True, **parameters: str) -> str:
        """What psql answers, or its complaint, over TCP with nothing but these parameters."""
        given = {"host": "localhost", "port": str(self.server.port), "dbname": "postgres", "user": "app", "sslmode": "verify-full", "connect_timeout": "10"}
        if check_files:
            given["sslrootcert"] = str(self.clients / "ca.crt")
        conninfo = " ".join(f"{name}='{value}'" for name, value in {**given, **parameters}.items())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment.update(PGPASSWORD=PASSWORD, HOME=str(self.directory))
        question = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        done = subprocess.run(
            [str(self.server.bindir / "psql"), "-XAtqc", question, conninfo], capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def certificate_of(self, role: str) -> dict[str, str]:
        """psql's parameters for a role that has a certificate."""
        return {"user": role, "sslcert": str(self.clients / f"{role}.crt"), "sslkey": str(self.clients / f"{role}.key")}

    def openssl(self, *options: str) -> str:
        """What openssl says after a handshake with these options."""
        command = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{self.server.port}", *options]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def plain(mine: Server) -> Server:
    """The server without TLS, with passwords for one role and certificates for the others."""
    mine.restart(ssl="off")
    path = mine.data / "server.conf"
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("ssl")]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    (mine.data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
    mine.psql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE reporter LOGIN; CREATE ROLE leaver LOGIN; SELECT pg_reload_conf()")
    return mine


@pytest.fixture(scope="module")
def own(plain: Server, tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """The server with an authority of its own, converged."""
    estate = Estate(plain, tmp_path_factory.mktemp("controller"))
    estate.variables.update(pg_ssl_source="ca", pg_ssl_client_certificates=["reporter", "leaver"])
    if plain.major in (min(servers.majors()), max(servers.majors())):
        estate.converge(foretold=True)
    else:  # a server to look at from outside; what the role does is the same on all
        assert estate.harden()["failed"] == 0, estate.output
    return estate


def test_clients_know_the_server(own: Estate, tmp_path: Path) -> None:
    assert own.psql().startswith("t|TLSv1.3")
    assert own.psql(**own.certificate_of("reporter")).startswith("t|TLSv1.3")
    (tmp_path / "other.crt").write_text(pki.authority("Other").pem, encoding="ascii")
    assert "certificate verify failed" in own.psql(sslrootcert=str(tmp_path / "other.crt"))
    assert "does not match host name" in own.psql(host="elsewhere.example.org", hostaddr="127.0.0.1")
    if own.server.major >= 15:  # libpq before that compares names only
        assert own.psql(host="127.0.0.1").startswith("t|TLSv1.3")
    # The password's exchange is bound to this very session; from 17 on TLS may also come without being asked for.
    assert own.psql(channel_binding="require").startswith("t|TLSv1.3")
    if own.server.major >= 17:
        assert own.psql(sslnegotiation="direct").startswith("t|TLSv1.3")


@pytest.mark.newest
def test_the_key_of_the_authority_is_encrypted_by_a_slow_derivation(own: Estate) -> None:
    path, passphrase = own.directory / "ca" / "ca-1.key", str(own.variables["pg_ssl_ca_passphrase"]).encode()
    assert path.read_text(encoding="ascii").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    parsed = subprocess.run(["openssl", "asn1parse", "-in", str(path)], capture_output=True, text=True, check=True).stdout
    assert "PBES2" in parsed
    assert re.search(r"PBKDF2|scrypt", parsed)
    key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    old = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.BestAvailableEncryption(passphrase))
    certificates = {each: each.read_bytes() for each in own.directory.rglob("*.crt")}
    path.write_bytes(old)
    assert own.harden("--check")["changed"] > 0, own.output
    assert path.read_bytes() == old
    own.converge()
    assert path.read_text(encoding="ascii").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    again = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    plain = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert again.private_bytes(*plain) == key.private_bytes(*plain)
    assert {each: each.read_bytes() for each in own.directory.rglob("*.crt")} == certificates


@pytest.mark.newest
def test_an_authority_that_clients_do_not_know_is_not_made_by_accident(own: Estate, tmp_path: Path) -> None:
    before = re.findall("-----BEGIN CERT.*?-----END", own.openssl("-showcerts"), re.DOTALL)
    variables, key = dict(own.variables), own.directory / "ca" / "ca-1.key"
    text = key.read_bytes()
    files = {path: path.read_bytes() for path in own.directory.rglob("ca*") if path.is_file()}
    for wrong, message in (
        ({"pg_ssl_names": ["localhost", "db9.example.org"]}, "ca-1.key is not, so that nothing can be issued"),
        ({"pg_ssl_ca_generation": 3}, "pg_ssl_ca_generation is 3, and the newest authority in"),
        ({"pg_ssl_ca_directory": str(tmp_path / "new")}, "has no authority at all. Bring the directory from the controller that made it"),
    ):
        if "ca-1.key" in message:
            key.unlink()
        own.variables.update(wrong)
        for flags in (("--check",), ()):
            assert own.harden(*flags)["failed"] == 1, own.output
            assert message in " ".join(own.output.split()), own.output
        own.variables.clear()
        own.variables.update(variables)
        key.write_bytes(text)
        key.chmod(0o600)
    assert re.findall("-----BEGIN CERT.*?-----END", own.openssl("-showcerts"), re.DOTALL) == before
    assert {path: path.read_bytes() for path in own.directory.rglob("ca*") if path.is_file()} == files
    assert not (tmp_path / "new").exists()
    assert own.harden()["changed"] == 0, own.output


def test_what_is_not_safe_is_refused(own: Estate) -> None:
    for user in ("app", "reporter", "postgres"):
        assert "no encryption" in own.psql(user=user, sslmode="disable", check_files=False)
    assert "certificate" in own.psql(user="reporter")
    assert "failed" in own.psql(**{**own.certificate_of("reporter"), "user": "leaver"})
    for old in ("-tls1", "-tls1_1"):
        assert "alert protocol version" in own.openssl(old, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "alert handshake failure" in own.openssl("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA:AES256-SHA@SECLEVEL=0")
    assert "Verify return code: 0 (ok)" in own.openssl("-tls1_2", "-CAfile", str(own.clients / "ca.crt"), "-verify_hostname", "localhost")


@pytest.mark.oldest_and_newest
def test_only_tls_1_3(own: Estate) -> None:
    own.variables["pg_ssl_profile"] = "modern"
    assert own.harden()["changed"] > 0, own.output
    assert "alert protocol version" in own.openssl("-tls1_2")
    assert own.psql().startswith("t|TLSv1.3")
    own.variables["pg_ssl_profile"] = "baseline"  # of the next run


@pytest.mark.oldest_and_newest
def test_every_snippet_connects(own: Estate, tmp_path: Path) -> None:
    place = {"host": "localhost", "port": own.server.port, "dbname": "postgres", "sslrootcert": str(own.clients / "ca.crt")}
    for parameters in (place | {"user": "app"}, place | own.certificate_of("reporter")):
        os.environ["PGPASSWORD"] = PASSWORD
        try:
            (tmp_path / "pg_service.conf").write_text(snippet({**parameters, "service": "shop"}, "service"), encoding="utf-8")
            environment = {**os.environ, "PGSERVICEFILE": str(tmp_path / "pg_service.conf")}
            for conninfo in ("service=shop", snippet(parameters, "url")):
                psql = [str(own.server.bindir / "psql"), "-XAtqc", "SELECT session_user", conninfo]
                done = subprocess.run(psql, capture_output=True, text=True, env=environment, timeout=60, check=False)
                assert done.stdout == f"{parameters['user']}\n", done.stderr
            with eval(snippet(parameters, "psycopg"), {"psycopg": psycopg}) as connection:
                assert connection.execute("SELECT session_user").fetchone() == (parameters["user"],)
            engine = eval(snippet(parameters, "sqlalchemy"), {"create_engine": sqlalchemy.create_engine})
            with engine.connect() as session:
                assert session.execute(sqlalchemy.text("SELECT session_user")).scalar() == parameters["user"]
            engine.dispose()
            assert django_answer(snippet(parameters, "django")) == parameters["user"]
        finally:
            del os.environ["PGPASSWORD"]


def snippet(parameters: dict[str, str], style: str) -> str:
    """What the filter writes, in a process of its own: one that has loaded the controller's part of Ansible runs modules in another way."""
    program = (
        "import json, sys\n"
        "from ansible_collections.bulwark.postgresql.plugins.filter.connection_snippet import connection_snippet\n"
        "print(connection_snippet(*json.load(sys.stdin)), end='')"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=json.dumps([parameters, style]), env=module.environment(), capture_output=True, text=True, check=True).stdout


def django_answer(entry: str) -> object:
    """Who Django is to the server."""
    if not django_settings.configured:
        django_settings.configure()
        django.setup()
    connection = ConnectionHandler({"default": ast.literal_eval(entry)})["default"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user")
        (answer,) = cursor.fetchone()
    connection.close()
    return answer


@pytest.mark.oldest_and_newest
def test_renewal_and_a_new_authority_under_load(own: Estate, tmp_path: Path) -> None:
    """Every transaction is a connection of its own, by a client that only knows the old authority; another keeps its session."""
    old = tmp_path / "old-ca.crt"
    old.write_bytes((own.clients / "ca.crt").read_bytes())
    (tmp_path / "question.sql").write_text("SELECT 1;\n", encoding="utf-8")
    old_client = {}
    for name, path in own.certificate_of("reporter").items():
        old_client[name] = path
        if name != "user":
            old_client[name] = str(tmp_path / f"old.{name}")
            Path(old_client[name]).write_bytes(Path(path).read_bytes())
            Path(old_client[name]).chmod(0o600)
    conninfo = f"host=localhost port={own.server.port} dbname=postgres user=app sslmode=verify-full sslrootcert={old}"
    command = [str(own.server.bindir / "pgbench"), "-n", "-f", str(tmp_path / "question.sql"), "-T", "300"]
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    loads = [
        subprocess.Popen([*command, *how, conninfo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for how in (["-C", "-c", "2", "-R", "40"], ["-c", "1", "-R", "40"])
    ]
    before = own.openssl("-showcerts")
    own.variables.update(pg_ssl_renew_before=366, pg_ssl_days=400, pg_ssl_client_days=400)
    renewed = own.harden()
    assert renewed["changed"] > 0, own.output
    own.variables["pg_ssl_renew_before"] = 30
    own.variables["pg_ssl_ca_generation"] = 2
    assert own.harden()["changed"] > 0, own.output
    assert own.openssl("-showcerts") != before
    for load in loads:
        assert load.poll() is None, load.communicate()[1]
        load.send_signal(signal.SIGALRM)  # its own sign that the time is over
    for load in loads:
        output, complaints = load.communicate(timeout=120)
        done = re.search(r"number of transactions actually processed: (\d+)", output)
        assert done, output + complaints
        assert int(done[1]) > 100
        assert "number of failed transactions: 0 " in output or own.server.major < 15
        assert (load.returncode, complaints) == (0, "")
    assert own.psql(sslrootcert=str(old)).startswith("t|")
    assert own.psql(**old_client).startswith("t|")
    assert own.psql(**own.certificate_of("reporter")).startswith("t|")
    newest = own.directory / "ca" / "ca-2.crt"
    assert own.psql(sslrootcert=str(newest)).startswith("t|")
    own.variables["pg_ssl_ca_keep_old"] = False
    own.converge()  # which also shows that the new authority flaps nowhere
    assert own.psql(sslrootcert=str(newest), **own.certificate_of("reporter")).startswith("t|")
    assert "unknown ca" in own.psql(**old_client)


@pytest.mark.oldest_and_newest
def test_a_revoked_client_is_refused(own: Estate, tmp_path: Path) -> None:
    lost = {}
    for name, path in own.certificate_of("leaver").items():
        lost[name] = path
        if name != "user":
            lost[name] = str(tmp_path / name)
            Path(lost[name]).write_bytes(Path(path).read_bytes())
            Path(lost[name]).chmod(0o600)
    assert own.psql(**lost).startswith("t|")
    serial = subprocess.run(["openssl", "x509", "-noout", "-serial", "-in", lost["sslcert"]], capture_output=True, text=True, check=True).stdout
    own.variables["pg_ssl_revoked"] = [serial.strip().partition("=")[2]]
    own.converge()
    assert "certificate revoked" in own.psql(**lost)
    assert own.psql(**own.certificate_of("leaver")).startswith("t|")
    assert own.psql(**own.certificate_of("reporter")).startswith("t|")
    assert Path(lost["sslkey"]).read_bytes() != (own.clients / "leaver.key").read_bytes()
    (own.clients / "leaver.key").rename(tmp_path / "leaver.key")
    assert own.harden()["changed"] == 0
    assert "leaver.key" in own.output
    (tmp_path / "leaver.key").rename(own.clients / "leaver.key")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Estate]:
    """A server of the newest major for the other sources."""
    with servers.running(max(servers.majors()), ssl="off") as started:
        (started.data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
        started.psql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; SELECT pg_reload_conf()")
        yield Estate(started, tmp_path)


@pytest.mark.oldest_and_newest
def test_a_request_that_somebody_else_signs(other: Estate, tmp_path: Path) -> None:
    authority = pki.authority("Company CA")
    (tmp_path / "company.crt").write_text(authority.pem, encoding="ascii")
    other.variables.update(pg_ssl_source="csr", pg_ssl_ca=str(tmp_path / "company.crt"), pg_ssl_names=["localhost", "127.0.0.1"])
    for turn in range(2):
        assert other.harden()["failed"] == 0, other.output
        assert "localhost.csr signed, put the certificate into" in other.output
        request = tmp_path / "requests" / "localhost.csr"
        asked = request.read_bytes()
        waiting = other.harden()
        assert (waiting["changed"], waiting["failed"]) == (0, 0), other.output
        assert request.read_bytes() == asked
        other.variables["pg_ssl_renew_before"] = 30
        signed = pki.sign_request(request.read_text(encoding="ascii"), authority, days=90)
        request.with_suffix(".crt").write_text(signed, encoding="ascii")
        other.converge(foretold=turn == 0)
        assert other.psql(sslrootcert=str(tmp_path / "company.crt")).startswith("t|")
        other.variables["pg_ssl_renew_before"] = 100


@pytest.mark.oldest_and_newest
def test_ready_files(other: Estate, tmp_path: Path) -> None:
    authority = pki.authority("Company CA")
    names = {"pg_ssl_ca": "company.crt", "pg_ssl_certificate": "server.crt", "pg_ssl_key": "server.key"}
    other.variables.update(pg_ssl_source="files", pg_ssl_names=["localhost"], **{name: str(tmp_path / file) for name, file in names.items()})
    (tmp_path / "company.crt").write_text(authority.pem, encoding="ascii")
    for turn in range(2):
        holder = pki.certificate("localhost", pki.authority("Issuing CA", authority), ["localhost"])
        (tmp_path / "server.crt").write_text(holder.chain, encoding="ascii")
        (tmp_path / "server.key").write_text(holder.key_pem, encoding="ascii")
        other.converge(foretold=turn == 0)
        assert other.psql(sslrootcert=str(tmp_path / "company.crt")).startswith("t|")
    (tmp_path / "server.key").write_text(pki.pem_of(pki.new_key()), encoding="ascii")
    assert other.harden()["failed"] == 1
    assert "pg_ssl_key: does not fit the certificate" in other.output
    assert other.psql(sslrootcert=str(tmp_path / "company.crt")).startswith("t|")


@pytest.mark.oldest_and_newest
def test_without_a_source_nothing_happens(other: Estate) -> None:
    other.variables = {name: value for name, value in other.variables.items() if not name.startswith("pg_ssl")}
    before = other.server.psql("SELECT name, setting FROM pg_settings WHERE name LIKE 'ssl%' ORDER BY 1")
    assert other.harden()["changed"] == 0
    assert other.server.psql("SELECT name, setting FROM pg_settings WHERE name LIKE 'ssl%' ORDER BY 1") == before


@pytest.mark.oldest_and_newest
def test_two_servers_share_an_authority(other: Estate) -> None:
    with servers.running(max(servers.majors()), ssl="off") as second:
        (second.data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
        second.psql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE reporter LOGIN; SELECT pg_reload_conf()")
        other.server.psql("CREATE ROLE reporter LOGIN")
        policy = {"pg_ssl_source": "ca", "pg_ssl_client_certificates": ["reporter"], "pg_ssl_names": ["localhost"]}
        place = {"bulwark_login_unix_socket": second.host, "bulwark_login_port": second.port}
        other.hosts = {"db1": {**other.variables, **policy}, "db2": {**other.variables, **policy, **place}}
        other.converge(foretold=True)
        before = (other.clients / "reporter.crt").read_bytes()
        for variables in other.hosts.values():
            variables["pg_ssl_ca_generation"] = 2
        other.converge()
        assert (other.clients / "reporter.crt").read_bytes() != before
        for server in (other.server, second):
            answer = other.psql(**{**other.certificate_of("reporter"), "port": str(server.port)}, sslrootcert=str(other.directory / "ca" / "ca-2.crt"))
            assert answer.startswith("t|TLSv1.3")
