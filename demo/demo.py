# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: a typical over-privileged application, hardened twice by playbooks/harden.yml, and the proof by psql as each role.

Started by demo/run. Everything it writes is in .work/demo; the server and its data are gone when it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import field_encryption
from tests import servers

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
OUTPUT = ROOT / ".work" / "demo"
CA = OUTPUT / "ca"  # the authority that the first run makes
KEYRING = OUTPUT / "pii.json"  # the keys that it makes
APPLICATION_KEYRING = OUTPUT / "app-pii.json"  # those of the application's host
HARDEN = "bulwark.postgresql.harden"
ROLES = ("app_service", "migration_user", "readonly_user", "analyst", "auditor")

ALLOWED = "allowed"
REFUSED = "refused"
PERMISSION_DENIED = "42501"


class DemoError(Exception):
    """Something is wrong; the text says what and where to look."""


@dataclass(frozen=True)
class Probe:
    """A statement that a role tries, in a transaction that is rolled back, and what is to come of it before and after the hardening."""

    role: str
    sql: str
    before: str
    after: str
    database: str = "shop"
    sslmode: str = "verify-full"


PROBES = (
    Probe("app_service", "SELECT count(*) FROM app.orders", ALLOWED, ALLOWED),
    Probe("app_service", "INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'New')", ALLOWED, ALLOWED),
    Probe("app_service", "UPDATE app.orders SET state = 'paid' WHERE id = 1", ALLOWED, ALLOWED),
    Probe("app_service", "SELECT app.next_invoice_number(), app.refresh_revenue()", ALLOWED, ALLOWED),
    Probe("app_service", "TRUNCATE app.orders", ALLOWED, REFUSED),
    Probe("app_service", "CREATE TABLE app.planted (id int)", ALLOWED, REFUSED),
    Probe("app_service", "ALTER TABLE app.users DROP COLUMN email", ALLOWED, REFUSED),
    Probe("app_service", "CREATE ROLE backdoor SUPERUSER", ALLOWED, REFUSED),
    Probe("app_service", "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'", ALLOWED, REFUSED),
    Probe("migration_user", "ALTER TABLE app.projects ADD COLUMN archived boolean", REFUSED, ALLOWED),
    Probe("migration_user", "CREATE TABLE app.invoices (id bigint)", ALLOWED, ALLOWED),
    Probe("migration_user", "CREATE ROLE backdoor", ALLOWED, REFUSED),
    Probe("readonly_user", "SELECT sum(amount) FROM app.orders", ALLOWED, ALLOWED),
    Probe("readonly_user", "SELECT ssn FROM app.user_profiles", ALLOWED, REFUSED),
    Probe("readonly_user", "SELECT app.order_total(2)", ALLOWED, REFUSED),
    Probe("readonly_user", "SELECT * FROM app.order_summary", ALLOWED, REFUSED),
    Probe("readonly_user", "UPDATE app.orders SET amount = 0", ALLOWED, REFUSED),
    Probe("readonly_user", "CREATE TABLE public.planted (id int)", ALLOWED, REFUSED),
    Probe("readonly_user", "CREATE TEMPORARY TABLE scratch (id int)", ALLOWED, REFUSED),
    Probe("readonly_user", "SELECT 1", ALLOWED, REFUSED, database="postgres"),
    Probe("analyst", "SELECT * FROM app.monthly_revenue", REFUSED, ALLOWED),
    Probe("analyst", "SELECT id, country FROM app.users", ALLOWED, ALLOWED),
    Probe("analyst", "SELECT email FROM app.users", ALLOWED, REFUSED),
    Probe("analyst", "UPDATE app.user_profiles SET phone = NULL", ALLOWED, REFUSED),
    Probe("app_service", "SELECT 'without TLS'", ALLOWED, REFUSED, sslmode="disable"),
    Probe("readonly_user", "SELECT 'without TLS'", ALLOWED, REFUSED, sslmode="disable"),
    Probe("old_reporter", "SELECT * FROM app.report_2025", ALLOWED, REFUSED),
)

# The log is not there before.
LOG_PROBES = (
    Probe("auditor", "SELECT count(*) FROM audit.audit_log", "", ALLOWED),
    Probe("auditor", "DELETE FROM audit.audit_log", "", REFUSED),
    Probe("auditor", "SELECT email FROM app.users", "", REFUSED),
    Probe("app_service", "SELECT * FROM audit.audit_log", "", REFUSED),
    Probe("app_service", "DELETE FROM audit.entries", "", REFUSED),
    Probe("migration_user", "DROP TABLE audit.entries", "", REFUSED),
    Probe("migration_user", "SET session_replication_role = replica", "", REFUSED),
)

# The rows of orders that each role sees, by tenant: in the context of each one, without a context, and in that of something that is no tenant.
TENANT_ROLES = ("app_service", "readonly_user")
CONTEXTS = ("1", "2", "3", None, "no-tenant")
ORDERS_BY_TENANT = """SELECT coalesce(string_agg(format('%s: %s', tenant_id, count), '  ' ORDER BY tenant_id), 'no row')
 FROM (SELECT tenant_id, count(*) FROM app.orders GROUP BY 1) o"""

# What the application does for its user Alice, and what the log says of it: who, what, when.
CHANGES = """BEGIN;
SELECT set_config('app.current_tenant_id', '1', true), set_config('app.current_user', 'alice@example.com', true) \\g /dev/null
UPDATE app.user_profiles SET phone = '{phone}', ssn = '{ssn}', ssn_index = '{ssn_index}' WHERE user_id = 3;
UPDATE app.orders SET state = 'shipped' WHERE id = (SELECT min(id) FROM app.orders WHERE state = 'paid');
INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'Winter sale');
COMMIT;"""
RECORDS = """SELECT format('%s %s %s by %s: %s', action, table_name, record_id, changed_by,
  coalesce(string_agg(format('%s = %s', key, n.value), ', ' ORDER BY key), ''))
 FROM audit.audit_log l LEFT JOIN LATERAL jsonb_each_text(new_values) n ON old_values IS NULL OR old_values->>key IS DISTINCT FROM n.value
 WHERE changed_by = 'alice@example.com' AND (key IS NULL OR key NOT IN ('id', 'tenant_id', 'owner_id', 'created_at', 'updated_at'))
 GROUP BY l.id, action, table_name, record_id, changed_by ORDER BY l.id"""

# Some of what the server has after the first run; the baseline's but for work_mem.
SETTINGS = {
    "log_connections": "receipt, authentication, authorization",
    "log_disconnections": "on",
    "password_encryption": "scram-sha-256",
    "scram_iterations": "15000",
    "client_connection_check_interval": "10s",
    "max_slot_wal_keep_size": "64GB",
    "work_mem": "8MB",
}

# migration_user makes a table after the first run; nobody runs anything for it.
NEW_TABLE = "CREATE TABLE app.coupons (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text NOT NULL)"
NEW_TABLE_PROBES = (
    Probe("app_service", "INSERT INTO app.coupons (code) VALUES ('SPRING')", "", ALLOWED),
    Probe("app_service", "DROP TABLE app.coupons", "", REFUSED),
    Probe("readonly_user", "SELECT * FROM app.coupons", "", ALLOWED),
    Probe("readonly_user", "DELETE FROM app.coupons", "", REFUSED),
    Probe("analyst", "SELECT * FROM app.coupons", "", REFUSED),
)


def say(text: str = "") -> None:
    """Print now, also into a pipe."""
    print(text, flush=True)


# Programs


def environment() -> dict[str, str]:
    """The environment of the programs that are run: nothing of the user's own settings of Ansible or PostgreSQL."""
    kept = ("ANSIBLE_HOME", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_LOCALHOST_WARNING", "ANSIBLE_INVENTORY_UNPARSED_WARNING")
    clean = {name: value for name, value in os.environ.items() if name in kept or not name.startswith(("ANSIBLE_", "PG"))}
    return {**clean, "ANSIBLE_CONFIG": str(DEMO / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "PGCONNECT_TIMEOUT": "10"}


def playbook(name: str, log: str, *options: str) -> str:
    """Run a playbook against the demo's server; its output goes to a log and is returned."""
    command = [
        "ansible-playbook", "-i", str(DEMO / "inventory"), name,
        "-e", f"@{OUTPUT / 'server.yml'}", "-e", f"@{OUTPUT / 'passwords.yml'}", "-e", f"@{OUTPUT / 'backups.yml'}", *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=OUTPUT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    (OUTPUT / log).write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        raise DemoError(f"{name} failed (all of its output: {OUTPUT / log}):\n{done.stdout[-4000:]}")
    return done.stdout


def recap(output: str) -> str:
    """The counters of a playbook run, such as 'ok=2 changed=1 unreachable=0 failed=0'."""
    found = re.search(r"^shop\s*:\s*(ok=\d+\s+changed=\d+\s+unreachable=\d+\s+failed=\d+)", output, re.MULTILINE)
    if found is None:
        raise DemoError(f"the playbook's output has no recap:\n{output[-2000:]}")
    return re.sub(r"\s+", " ", found[1])


def attempt(server: servers.Server, probe: Probe, password: str | None) -> tuple[str, str]:
    """What comes of a probe, and the reason of a refusal. With a password over TCP, without one over the unix socket."""
    settings = {"PGHOST": server.host} if password is None else {"PGHOST": "localhost", "PGPASSWORD": password, "PGSSLMODE": probe.sslmode}
    settings["PGSSLROOTCERT"] = str(CA / "clients" / "ca.crt")
    done = subprocess.run(
        [str(server.bindir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-f", "-"],
        input=f"BEGIN;\nSET LOCAL app.current_tenant_id = '1';\n{probe.sql};\nROLLBACK;\n", capture_output=True, text=True, encoding="utf-8", check=False,
        env={**environment(), **settings, "PGPORT": str(server.port), "PGUSER": probe.role, "PGDATABASE": probe.database},
    )  # fmt: skip
    if done.returncode == 0:
        return ALLOWED, ""
    error = re.search(r"ERROR:  (\w{5}): (.*)", done.stderr)
    if error and error[1] == PERMISSION_DENIED:
        return REFUSED, error[2]
    fatal = re.search(r"FATAL:  (.*)", done.stderr)
    if fatal and re.search(r"password authentication failed|permission denied|does not exist|not permitted|pg_hba.conf rejects", fatal[1]):
        return REFUSED, fatal[1]
    raise DemoError(f"psql as {probe.role}: {probe.sql}\n{done.stderr}")


def tenants_seen(server: servers.Server, role: str, context: str | None, password: str | None) -> str:
    """The orders that a role sees in the context of a tenant, which it sets in its transaction as the application does."""
    settings = {"PGHOST": server.host} if password is None else {"PGHOST": "localhost", "PGPASSWORD": password, "PGSSLMODE": "verify-full"}
    settings["PGSSLROOTCERT"] = str(CA / "clients" / "ca.crt")
    begin = "BEGIN;" if context is None else f"BEGIN; SET LOCAL app.current_tenant_id = '{context}';"
    done = subprocess.run(
        [str(server.bindir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=f"{begin}\n{ORDERS_BY_TENANT};\nCOMMIT;\n", capture_output=True, text=True, encoding="utf-8", check=False,
        env={**environment(), **settings, "PGPORT": str(server.port), "PGUSER": role, "PGDATABASE": "shop"},
    )  # fmt: skip
    if done.returncode != 0:
        raise DemoError(f"psql as {role} in the context of {context}:\n{done.stderr}")
    return done.stdout.strip()


def psql(server: servers.Server, role: str, password: str, script: str) -> str:
    """What psql prints as a role, over TLS. Raises DemoError where a statement fails."""
    settings = {"PGHOST": "localhost", "PGPASSWORD": password, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(CA / "clients" / "ca.crt")}
    done = subprocess.run(
        [str(server.bindir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=script, capture_output=True, text=True, encoding="utf-8", check=False,
        env={**environment(), **settings, "PGPORT": str(server.port), "PGUSER": role, "PGDATABASE": "shop"},
    )  # fmt: skip
    if done.returncode != 0:
        raise DemoError(f"psql as {role}:\n{script}\n{done.stderr}")
    return done.stdout.strip()


def tenant_lines(server: servers.Server, passwords: Mapping[str, str] | None) -> list[tuple[str, str, str]]:
    """Role, context and what it sees; with passwords, raises DemoError where that is more or less than the tenant's own."""
    everything = dict(line.split(": ") for line in server.psql(ORDERS_BY_TENANT, db="shop").split("  "))
    found = []
    for role in TENANT_ROLES:
        for context in CONTEXTS:
            seen = tenants_seen(server, role, context, passwords[role] if passwords else None)
            own = f"{context}: {everything[context]}" if context in everything else "no row"
            if passwords and seen != own:
                raise DemoError(f"{role} in the context of {context} sees {seen}, expected: {own}")
            found.append((role, context or "none", seen))
    return found


def tenant_table(before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]) -> str:
    """What each role saw before and sees now."""
    rows = [("role", "tenant in context", "orders by tenant, before", "now")]
    rows += [(role, context, seen, now[2]) for (role, context, seen), now in zip(before, after)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(row[column].ljust(widths[column]) for column in range(3)), row[3]]).rstrip() for row in rows)


# The parts of the demo


def load(server: servers.Server) -> int:
    """Load the application; returns the number of rows."""
    server.psql("CREATE DATABASE shop")
    for file in sorted((DEMO / "sql").glob("*.sql")):
        server.psql(file.read_text(encoding="utf-8"), db="shop")
    tables = ("tenants", "users", "user_profiles", "projects", "orders")
    return int(server.psql("SELECT " + " + ".join(f"(SELECT count(*) FROM app.{table})" for table in tables), db="shop"))


def write_private(name: str, content: Mapping[str, object]) -> None:
    """A YAML file that only this user may read, from its first byte on."""
    handle = os.open(OUTPUT / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(content), file)


def try_all(server: servers.Server, probes: tuple[Probe, ...], passwords: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """The outcomes of probes; raises DemoError where one is not as expected."""
    outcomes: list[tuple[str, str]] = []
    wrong: list[str] = []
    for probe in probes:
        outcome, reason = attempt(server, probe, passwords.get(probe.role) if passwords is not None else None)
        expected = probe.before if passwords is None else probe.after
        if outcome != expected:
            wrong.append(f"{probe.role}: {probe.sql}: {outcome} {reason}, expected: {expected}")
        outcomes.append((outcome, reason))
    if wrong:
        raise DemoError("not as it should be:\n" + "\n".join(f"  {line}" for line in wrong))
    return outcomes


def rules(server: servers.Server) -> str:
    """The rules of pg_hba.conf without its comments."""
    lines = (server.data / "pg_hba.conf").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def encrypted_lines(server: servers.Server, password: str, keyring: field_encryption.Keyring) -> str:
    """The encrypted columns of one row, as the server shows them and as the application reads them."""
    script = """BEGIN; SELECT set_config('app.current_tenant_id', '1', true) \\g /dev/null
SELECT ssn, phone FROM app.user_profiles WHERE user_id = 3; COMMIT;"""
    tokens = psql(server, "app_service", password, script).split("|")
    texts = [keyring.decrypt(token) for token in tokens]
    entries = ", ".join(f"'{entry}'" for entry in keyring.blind_indexes("078 05 1120", "app.user_profiles.ssn", "digits"))
    script = f"""BEGIN; SELECT set_config('app.current_tenant_id', '1', true) \\g /dev/null
SELECT user_id FROM app.user_profiles WHERE ssn_index = ANY (ARRAY[{entries}]); COMMIT;"""
    found = psql(server, "app_service", password, script)
    if found != "3":
        raise DemoError(f"the blind index finds {found or 'nothing'}, not the user 3")
    if texts != ["078-05-1120", "555-0100"]:
        raise DemoError(f"the encrypted columns are not as they should be: {texts}")
    plain = server.psql("SELECT count(*) FROM app.user_profiles WHERE ssn NOT LIKE 'gAAAA%' OR phone NOT LIKE 'gAAAA%'", db="shop")
    if plain != "0":
        raise DemoError(f"{plain} rows of app.user_profiles are not encrypted")
    width = len("phone")
    lines = [f"{name.ljust(width)}  {token[:40]}...  {text}" for name, token, text in zip(("ssn", "phone"), tokens, texts)]
    return "\n".join([*lines, f"and by the blind index of ssn it finds 078 05 1120: user {found}"])


def rotation_lines(server: servers.Server) -> str:
    """Rotate the key: every key with its state and the tokens that it reads, before and after."""
    tables = []
    for number in range(2):
        if number:
            playbook("bulwark.postgresql.rotate_keys", "4-rotate.log")
        tokens = server.psql("SELECT unnest(ARRAY[ssn, phone]) FROM app.user_profiles", db="shop").split()
        keys = field_encryption.Keyring.from_file(APPLICATION_KEYRING if number else KEYRING).keys
        rings = [(key, field_encryption.Keyring([field_encryption.Key.from_secret(str(key.secret))])) for key in keys]
        tables.append([(key.id, key.state, sum(ring.info(token).key_id is not None for token in tokens)) for key, ring in rings])
    old, (retired, primary) = tables
    if old[0][:2] != (retired[0], "primary") or retired[1:] != ("retired", 0) or primary[1:] != ("primary", old[0][2]):
        raise DemoError(f"the keys are not rotated: {tables}")
    rows = [(word, *row) for word, keys in (("before", old), ("after ", tables[1])) for row in keys]
    return "\n".join(f"{word}  {name}  {state.ljust(7)}  {count}" for word, name, state, count in rows)


class Backups:
    """The backups of the demo's server: their directory, and two keys of age that only this program has."""

    PROGRAMS = ("age", "age-keygen", "zstd")

    def __init__(self, server: servers.Server) -> None:
        self._server = server
        self._root = server.directory / "backups"
        self._config = self._root / "config" / "main.json"
        self._identity = server.directory / "escrow.txt"
        self.recipients = [self._key(name) for name in ("operators.txt", "escrow.txt")]
        for path in (self._root, self._root / "stored"):
            path.mkdir(mode=0o755)
            self._give(path)

    def _give(self, path: Path) -> None:
        """Give a file to the account that the server runs as."""
        if os.geteuid() == 0:
            shutil.chown(path, servers.server_account().pw_uid)

    def _key(self, name: str) -> str:
        path = self._server.directory / name
        subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
        self._give(path)
        return subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True).stdout.strip()

    @property
    def variables(self) -> dict[str, object]:
        """The variables that say where everything is."""
        places = {"directory": "stored", "config_directory": "config", "program_directory": "program", "starter": "pg-bulwark-backup"}
        return {"demo_recipients": self.recipients, **{f"pg_backup_{name}": str(self._root / place) for name, place in places.items()}}

    def call(self, *words: str, check: bool = True) -> str:
        """What the program prints, as the account of the server."""
        account = servers._as_server_account(self._server.bindir)
        command = [str(self._root / "pg-bulwark-backup"), "--config", str(self._config), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **account)
        if check and done.returncode != 0:
            raise DemoError(f"pg-bulwark-backup {' '.join(words)}: {done.stderr}")
        return (done.stdout if check else done.stderr).strip()

    def drill(self, *words: str, check: bool = True) -> str:
        """A drill by the identity in escrow."""
        scratch = str(self._server.directory / "scratch")
        return self.call("drill", "physical", "--identity", str(self._identity), "--scratch", scratch, *words, check=check)

    def archive(self) -> None:
        """Rows of the canary, and the WAL that they are in, into the archive."""
        for _row in range(2):
            self.call("canary")
        name = self._server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        self._server.psql("SELECT pg_switch_wal()")
        for _tenth in range(300):
            if self._server.psql(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver") == "t":
                return
            time.sleep(0.1)
        raise DemoError(f"{name} is not archived: {self._server.log}")

    def damage(self) -> str:
        """Change one bit of the newest backup; the name of the file."""
        path = max((self._root / "stored" / "physical").glob("*/base.tar*"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        return path.name


def backup_lines(backups: Backups) -> str:
    """Make backups, restore the newest by the key in escrow, and once more with one bit of it changed."""
    made = [backups.call("run", kind) for kind in ("logical", "physical")]
    backups.archive()
    good = backups.drill()
    name = backups.damage()
    bad = backups.drill(check=False)
    if "its content has changed" not in bad:
        raise DemoError(f"a damaged backup was restored: {bad}")
    return "\n".join([*made, "", good, "", f"and after one bit of {name} was changed:", re.sub(r"/\S+/(?=physical)", "", bad)])


def changed_words(plan: str) -> str:
    """The plan, with the objects that got a new owner counted in one line."""
    owners = re.findall(r"^  (?!schema|\d).*: (owner \S+ -> \S+)$\n", plan, re.MULTILINE)
    short = re.sub(r"^  (?!schema|\d).*: owner \S+ -> \S+$\n", "", plan, flags=re.MULTILINE)
    counted = "".join(f"  {owners.count(owner)} tables, sequences, functions and types: {owner}\n" for owner in sorted(set(owners)))
    return re.sub(r"^(  schema .*: owner .*\n)", lambda found: found[1] + counted, short, count=1, flags=re.MULTILINE).rstrip()


def probe_lines(probes: tuple[Probe, ...], before: list[tuple[str, str]] | None, after: list[tuple[str, str]]) -> str:
    """A table of statements with what came of them."""
    rows: list[tuple[str, ...]] = []
    for index, probe in enumerate(probes):
        was = (before[index][0] if before else "",)
        place = "" if probe.database == "shop" else f" (in database {probe.database})"
        rows.append((probe.role, probe.sql + place, *was, " ".join(after[index]).strip()))
    rows.insert(0, ("role", "statement", "before" if before else "", "now"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(row[column].ljust(widths[column]) for column in range(3) if widths[column]), row[3]]).rstrip() for row in rows)


def demonstrate(server: servers.Server) -> None:
    """Everything, with the server started."""
    passwords = {role: secrets.token_urlsafe(24) for role in ROLES}
    write_private("passwords.yml", {"pg_users_passwords": passwords})
    accounts = {pwd.getpwuid(os.geteuid()).pw_name, servers.server_account().pw_name}
    administrators = [{"system_user": account, "role": "postgres"} for account in sorted(accounts)]
    authority = {"demo_ca_directory": str(CA), "demo_ca_passphrase": secrets.token_urlsafe(24), "demo_keyring": str(KEYRING)}
    authority["demo_application_keyring"] = str(APPLICATION_KEYRING)
    backups = Backups(server) if all(map(shutil.which, Backups.PROGRAMS)) else None
    maps = {
        "demo_administrators": administrators,
        "demo_backup_accounts": [{"system_user": account, "role": "bulwark_backup"} for account in sorted(accounts)] if backups else [],
    }
    write_private("server.yml", {"bulwark_login_unix_socket": server.host, "bulwark_login_port": server.port, **maps, **authority})
    write_private("backups.yml", backups.variables if backups else {})

    rows = load(server)
    say(f"    database shop: {rows} rows of three tenants; everything is owned by postgres, the application connects as a superuser")
    before = try_all(server, PROBES, None)
    tenants_before = tenant_lines(server, None)
    playbook(str(DEMO / "matrix.yml"), "matrix-before.log", "-e", f"matrix_dir={OUTPUT} matrix_name=before")

    say("2. What would be done: harden.yml --check --diff")
    checked = playbook(HARDEN, "1-check.log", "--check", "--diff")
    playbook(str(DEMO / "review.yml"), "review.log", "-e", f"review_dir={OUTPUT}")
    plan = (OUTPUT / "plan.txt").read_text(encoding="utf-8")
    say(f"    {recap(checked)}; the plan: .work/demo/plan.txt, as SQL: .work/demo/plan.sql")
    if try_all(server, PROBES, None) != before:
        raise DemoError("the check run changed something")

    say("3. harden.yml")
    first = recap(playbook(HARDEN, "2-harden.log", "--diff"))
    say(f"    {first}")
    server.psql(f"SET ROLE migration_user; {NEW_TABLE}", db="shop")
    say("    migration_user makes a table, app.coupons")

    if backups:
        server.restart()
        say("    the server is restarted, which archive_mode needs once")

    say("4. harden.yml again")
    begin = time.monotonic()
    again = playbook(HARDEN, "3-again.log", "--diff")
    second = recap(again)
    say(f"    {second}, {again.count('TASK [')} tasks in {time.monotonic() - begin:.1f} s")
    if "changed=0" not in second:
        raise DemoError(f"the second run changed something: {OUTPUT / '3-again.log'}")

    say(f"5. {'Backups, and a drill that restores them' if backups else 'No backups: ' + ', '.join(Backups.PROGRAMS) + ' are not all installed here'}")
    restored = backup_lines(backups) if backups else ""
    after = try_all(server, PROBES, passwords)
    new = try_all(server, NEW_TABLE_PROBES, passwords)
    tenants_after = tenant_lines(server, passwords)
    keyring = field_encryption.Keyring.from_file(KEYRING)
    written = {"phone": keyring.encrypt("555-0100"), "ssn": keyring.encrypt("078-05-1120")}
    written["ssn_index"] = keyring.blind_index("078-05-1120", "app.user_profiles.ssn", "digits")
    psql(server, "app_service", passwords["app_service"], CHANGES.format(**written))
    recorded = psql(server, "auditor", passwords["auditor"], RECORDS)
    if len(recorded.splitlines()) != 3 or "555-0100" in recorded or "078-05-1120" in recorded:
        raise DemoError(f"the audit log is not as it should be:\n{recorded}")
    encrypted = encrypted_lines(server, passwords["app_service"], keyring)
    say("6. rotate_keys.yml: a new key for the encrypted columns")
    rotated = rotation_lines(server)
    log = try_all(server, LOG_PROBES, passwords)
    playbook(str(DEMO / "matrix.yml"), "matrix-after.log", "-e", f"matrix_dir={OUTPUT} matrix_name=after")
    stale = server.psql("SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'")
    if stale != "0":
        raise DemoError(f"{stale} passwords are not SCRAM verifiers")

    settings = {name: server.psql(f"SHOW {name}") for name in SETTINGS}
    wrong = {name: value for name, value in settings.items() if value != SETTINGS[name]}
    if wrong:
        raise DemoError(f"settings that are not as they should be: {wrong}")

    say("\nSettings of the server, the baseline and the policy's own: conf.d/bulwark.conf holds each with its reason, for example\n")
    say(textwrap.indent("\n".join(f"{name} = {value}" for name, value in settings.items()), "  "))
    say("\nWho may connect, from where and how: the whole pg_hba.conf\n")
    say(textwrap.indent(rules(server), "  "))
    say("\nWhat was changed\n")
    say(textwrap.indent(changed_words(plan), "  "))
    say("\nWhat is true now (tried by psql as each role, before over the Unix socket, now over TLS with verify-full and the new passwords)\n")
    say(textwrap.indent(probe_lines(PROBES, before, after), "  "))
    say("\nWhich rows each tenant sees: the context is set in the transaction, by SET LOCAL app.current_tenant_id\n")
    say(textwrap.indent(tenant_table(tenants_before, tenants_after), "  "))
    say("\nWhat the audit log says of a transaction of app_service for its user alice@example.com, read by auditor\n")
    say(textwrap.indent(recorded, "  "))
    say("\nWhat the database has of a social security number and a phone number, and what the application reads with its key\n")
    say(textwrap.indent(encrypted, "  "))
    say("\nThe keys of the encrypted columns before and after rotate_keys.yml, and how many of the tokens each one reads\n")
    say(textwrap.indent(rotated, "  "))
    if restored:
        say("\nWhat cron would do, and a drill: the backup is restored by the key in escrow, which the server does not have\n")
        say(textwrap.indent(restored, "  "))
    say("\nWho gets at the log\n")
    say(textwrap.indent(probe_lines(LOG_PROBES, None, log), "  "))
    say("\nThe table that migration_user made after the first run\n")
    say(textwrap.indent(probe_lines(NEW_TABLE_PROBES, None, new), "  "))
    say(f"\nFirst run   {first}\nSecond run  {second}")


def summary_of_files() -> None:
    """Where to look."""
    files = (
        ("plan.txt", "what the first run changed, in the policy's terms"),
        ("plan.sql", "the same as SQL, in order"),
        ("2-harden.log, 3-again.log", "the two runs"),
        ("4-rotate.log", "the rotation of the keys"),
        ("matrix-before.txt, matrix-after.txt", "who could and can do what"),
        ("policy-before.yml", "the policy that pg_access_info read from the server as it was found"),
    )
    say("\nWhere to look")
    say(f"  the policy: demo/inventory/group_vars/postgresql/, the playbook: playbooks/harden.yml, what it means: docs/access.md\n  in {OUTPUT}:")
    width = max(len(name) for name, _what in files)
    for name, what in files:
        say(f"    {name.ljust(width)}  {what}")


def run() -> None:
    """The whole demo, one at a time in this directory."""
    OUTPUT.parent.mkdir(exist_ok=True)
    with open(OUTPUT.parent / "demo.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("another demo is running in this directory; wait until it is done") from None
        if OUTPUT.exists():
            shutil.rmtree(OUTPUT)
        OUTPUT.mkdir()
        say("1. A private PostgreSQL 18 with the demo application (the first time its programs are downloaded)")
        server = servers.start(18)
        try:
            say(f"    PostgreSQL {server.version} in {server.host}")
            demonstrate(server)
        finally:
            server.remove()
            for name in ("passwords.yml", "server.yml", "backups.yml", KEYRING.name, APPLICATION_KEYRING.name):
                (OUTPUT / name).unlink(missing_ok=True)
            shutil.rmtree(CA, ignore_errors=True)
        summary_of_files()


def interrupted(_signal: int, _frame: object) -> None:
    """A signal ends the demo as Ctrl-C does, with everything cleaned up."""
    raise KeyboardInterrupt


def main() -> int:
    """The exit status: 0, 1 with a message, 130 when interrupted."""
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    try:
        run()
    except (DemoError, servers.ServerError, servers.SqlError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; the server is gone", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
