# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The default baseline: what the CIS benchmarks of PostgreSQL 17 and 18 and the STIG of Crunchy Data Postgres 16 can decide, with reasons.

Values are chosen for a busy server: what would break clients is left to the policy, and where the two standards contradict each other the
reason says which way it went. `controls` are ids of the standards; their texts are not repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass

_NEWEST = 99


@dataclass(frozen=True)
class BaselineEntry:
    """One setting. since, until: major versions. only_with: a library that has to be loaded. optional: not every build knows it."""

    name: str
    value: str
    reason: str
    controls: tuple[str, ...] = ()
    since: int = 14
    until: int = _NEWEST
    only_with: str | None = None
    optional: bool = False


def _cis(*numbers: str) -> tuple[str, ...]:
    return tuple(f"CIS 17/18 {number}" for number in numbers)


def _stig(*numbers: str) -> tuple[str, ...]:
    return tuple(f"CD16-00-{number}" for number in numbers)


BASELINE: tuple[BaselineEntry, ...] = (
    # Passwords
    BaselineEntry(
        "password_encryption", "scram-sha-256", "new passwords are stored as SCRAM verifiers, never as MD5", _stig("003800", "003900")
    ),
    BaselineEntry(
        "scram_iterations", "15000", "what RFC 7677 recommends; a stored verifier keeps its own count", _stig("003800"), since=16
    ),
    BaselineEntry("authentication_timeout", "30s", "a login that does not finish frees its place", _stig("004700")),
    # What is logged
    BaselineEntry("log_connections", "on", "every connection", _cis("3.1.20") + _stig("000500", "001500"), until=17),
    BaselineEntry(
        "log_connections",
        "receipt, authentication, authorization",
        "every connection; the list of PostgreSQL 18, in which on means the same",
        _cis("3.1.20") + _stig("000500", "001500"),
        since=18,
    ),
    BaselineEntry("log_disconnections", "on", "the end and the length of every session", _cis("3.1.21") + _stig("000500")),
    BaselineEntry(
        "log_line_prefix",
        "%m [%p] db=%d,user=%u,app=%a,client=%h ",
        "when, which process, where, who, with what, from where",
        _cis("3.1.24") + _stig("000400", "001100", "001200", "001300"),
    ),
    BaselineEntry("log_timezone", "UTC", "times that compare across hosts", _cis("3.1.26") + _stig("007500")),
    BaselineEntry(
        "log_error_verbosity", "verbose", "with the SQLSTATE; clients see client_min_messages, not this", _cis("3.1.22") + _stig("001400")
    ),
    BaselineEntry("log_hostname", "off", "no name service in the way of a connection", _cis("3.1.23")),
    BaselineEntry("log_checkpoints", "on", "what the storage is asked for"),
    BaselineEntry("log_lock_waits", "on", "who waits for a lock longer than deadlock_timeout"),
    BaselineEntry("log_replication_commands", "on", "who copies the server", _cis("7.2")),
    BaselineEntry("log_min_messages", "warning", "no debugging, no silence", _cis("3.1.14")),
    BaselineEntry("log_min_error_statement", "error", "the statement of every error", _cis("3.1.15")),
    BaselineEntry("log_parameter_max_length", "0", "values of bound parameters are personal data and secrets"),
    BaselineEntry("log_parameter_max_length_on_error", "0", "the same, of a statement that fails"),
    BaselineEntry(
        "log_statement",
        "none",
        "it would write the password of an ALTER ROLE in clear; where pgaudit is loaded, that logs DDL and roles with passwords redacted",
        ("CIS 17/18 3.1.25 (met by pgaudit)",),
    ),
    BaselineEntry(
        "pgaudit.log", "ddl, role", "DDL and roles, passwords redacted", _cis("3.2", "3.1.25") + _stig("000900"), only_with="pgaudit"
    ),
    BaselineEntry("log_file_mode", "0600", "the log is for its owner", _cis("3.1.6") + _stig("002000")),
    BaselineEntry("log_truncate_on_rotation", "on", "a file that is used again begins empty", _cis("3.1.7")),
    BaselineEntry("log_rotation_age", "1d", "a file a day, where the server writes its own", _cis("3.1.8")),
    BaselineEntry("syslog_sequence_numbers", "on", "repeated lines are not suppressed", _cis("3.1.11")),
    BaselineEntry("syslog_split_messages", "on", "long lines are not cut", _cis("3.1.12")),
    BaselineEntry("debug_print_parse", "off", "no parse trees in the log", _cis("3.1.16")),
    BaselineEntry("debug_print_rewritten", "off", "no query trees in the log", _cis("3.1.17")),
    BaselineEntry("debug_print_plan", "off", "no plans in the log", _cis("3.1.18")),
    BaselineEntry("debug_pretty_print", "on", "readable where somebody turns them on", _cis("3.1.19")),
    # Sessions that do not end
    BaselineEntry(
        "statement_timeout", "4h", "a runaway statement ends; not for superusers and replication, roles may have their own", _stig("004700")
    ),
    BaselineEntry("lock_timeout", "10min", "a statement that waits for a lock blocks those behind it", _stig("004700")),
    BaselineEntry(
        "idle_in_transaction_session_timeout", "10min", "a forgotten transaction holds locks and stops vacuum", _stig("004700", "006200")
    ),
    BaselineEntry("transaction_timeout", "12h", "the same for a transaction that keeps working", _stig("004700"), since=17),
    BaselineEntry("tcp_keepalives_idle", "60s", "a client that is gone is noticed", _stig("004700")),
    BaselineEntry("tcp_keepalives_interval", "10s", "a client that is gone is noticed", _stig("004700")),
    BaselineEntry("tcp_keepalives_count", "6", "a client that is gone is noticed", _stig("004700")),
    BaselineEntry("client_connection_check_interval", "10s", "a statement whose client is gone ends", _stig("004700", "006200")),
    # What sessions may
    BaselineEntry("row_security", "on", "a query that row-level security would filter is filtered, not refused", _stig("006700")),
    BaselineEntry("standard_conforming_strings", "on", "a backslash in a string is a backslash", _stig("005700")),
    BaselineEntry("backslash_quote", "safe_encoding", "no quoting tricks in unsafe encodings", _stig("005700")),
    BaselineEntry("lo_compat_privileges", "off", "large objects have privileges", _stig("006700")),
    # What nobody turns on but to mend or to measure something, and then forgets
    BaselineEntry("fsync", "on", "what is committed survives a crash of the host", _cis("6.4")),
    BaselineEntry("full_page_writes", "on", "a page that was half written is mended after a crash", _cis("6.4")),
    BaselineEntry("gss_accept_delegation", "off", "clients' Kerberos credentials stay theirs", _cis("6.4"), since=16),
    BaselineEntry("ignore_system_indexes", "off", "system catalogs are read by their indexes", _cis("6.2")),
    BaselineEntry("allow_system_table_mods", "off", "system catalogs are nobody's to write", _cis("6.5")),
    BaselineEntry("ignore_checksum_failure", "off", "a damaged page is an error", _cis("6.5")),
    BaselineEntry("zero_damaged_pages", "off", "a damaged page is an error, not an empty page", _cis("6.5")),
    BaselineEntry("log_statement_stats", "off", "no statistics of each statement in the log", _cis("6.5")),
    BaselineEntry("log_parser_stats", "off", "no statistics of each statement in the log", _cis("6.5")),
    BaselineEntry("log_planner_stats", "off", "no statistics of each statement in the log", _cis("6.5")),
    BaselineEntry("log_executor_stats", "off", "no statistics of each statement in the log", _cis("6.5")),
    # The disk
    BaselineEntry("max_slot_wal_keep_size", "64GB", "a replication slot that nobody reads does not fill the disk"),
)
