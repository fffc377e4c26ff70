#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate, key, authorities and revocation list of a server, installed as one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_ssl_files
short_description: Install the TLS certificate, key, authorities and revocation list of a server as one
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Checks a certificate, its key, the authorities and the revocation list against each other, and installs them as one generation,
    C(DIRECTORY/7/) with
    C(server.crt), C(server.key), C(ca.crt) and C(ca.crl). The symbolic link C(DIRECTORY/current), which the server's settings name, is
    moved to it as one
    step.
  - The key has to fit, the certificate has to be valid now, to be valid for every name, and to lead to an authority of O(ca).
    Authorities need the CA flag.
    Revocation lists have to be signed by them and not to have expired. Every mistake is reported, and nothing is touched.
  - Where the server uses the files, it is reloaded and has to show the new certificate in a TLS handshake. If it does not, the link
    goes back to the old
    generation. Nobody is disconnected. The old generation is kept, older ones are removed.
  - Without O(certificate) the installed one stays, and RV(needed) says whether another has to be issued. Authorities and revocation
    lists are still
    installed.
  - Set C(ssl_cert_file), C(ssl_key_file), C(ssl_ca_file) and C(ssl_crl_file) to RV(files), with M(bulwark.postgresql.pg_settings).
  - Run it on the server's host as the server's account. It works on a standby, which has files of its own.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
requirements:
  - cryptography 3.3 or later on the host that the module runs on
options:
  certificate:
    description:
      - The server's certificate, followed by the intermediate ones of its chain, as PEM text or as the absolute path of a file on the host.
      - Without it the installed one stays.
    type: str
  key:
    description:
      - File on the host with the private key of O(certificate), as PEM without a passphrase. Others must not be able to read it.
      - Only needed where O(certificate) is not installed yet and the installed key is not its own.
      - By default C(staged.key) in O(directory), where that is there. A file in O(directory) itself is removed after it has been installed.
    type: path
  key_content:
    description: The private key as PEM text, instead of O(key).
    type: str
  ca:
    description:
      - The authorities that C(ca.crt) holds, which sign client certificates and to which O(certificate) has to lead. PEM text, or a
        path on the host.
      - Without it there is none, clients cannot authenticate by certificate, and the chain of O(certificate) is not checked.
    type: str
  crl:
    description: The revocation lists, one of each authority of O(ca). PEM text, or a path on the host.
    type: str
  names:
    description: DNS names and IP addresses of the server, each of which has to be in the certificate's subjectAltName.
    type: list
    elements: str
    default: []
  issuer:
    description:
      - The authority that has to have signed the certificate itself, as PEM text or a path on the host. Another one is a reason for
        RV(needed).
    type: str
  revoked:
    description:
      - Serial numbers of revoked certificates in hexadecimal, as C(openssl x509 -noout -serial) prints them.
      - Lists that do not have exactly these are in RV(crl_reasons). Without it, lists have whatever they have.
    type: list
    elements: str
  clients:
    description:
      - Common names of clients that are to have a certificate, which are the names of roles. Nothing of them is installed.
      - The ones whose certificate is missing or has to be issued anew are in RV(clients).
    type: list
    elements: str
    default: []
  client_certificates:
    description: The certificates of O(clients) that there are, in any order. PEM text, or a path on the host.
    type: str
  issued_for:
    description: For how many days certificates are issued. O(renew_before) must be below, since each run would renew them otherwise.
    type: int
  renew_before:
    description: How many days before the end of its validity a certificate is to be replaced.
    type: int
    default: 30
  directory:
    description:
      - Where the generations are. It is made where it is missing.
      - By default C(bulwark_tls) beside the server's main configuration file, where that is outside the data directory and in a
        directory of the server's
        account; else beside the data directory, as C(DATA_bulwark_tls).
      - A directory inside the data directory is refused, since backups would stop at the link or leave it out, and would hold the
        private key. Files that an
        earlier release has put there are moved out, and removed once no setting names them any more.
    type: path
  path_prefix:
    description: Put before the name of the option in each mistake of an error message, so that it names the user's own variable.
    type: str
    default: ""
seealso:
  - module: bulwark.postgresql.pg_settings
  - module: bulwark.postgresql.pg_cluster_info
  - name: Secure TCP/IP Connections with SSL
    description: PostgreSQL's documentation of its TLS files.
    link: https://www.postgresql.org/docs/current/ssl-tcp.html
"""

EXAMPLES = r"""
- name: Install a certificate that somebody else has issued
  bulwark.postgresql.pg_ssl_files:
    login_unix_socket: /var/run/postgresql
    certificate: "{{ lookup('ansible.builtin.file', 'db1.crt') }}"
    key_content: "{{ lookup('ansible.builtin.file', 'db1.key.vault') }}"
    ca: "{{ lookup('ansible.builtin.file', 'ca.crt') }}"
    names: [db1.example.org, 10.0.0.5]
  become: true
  become_user: postgres
  register: files

- name: Use it
  bulwark.postgresql.pg_settings:
    login_unix_socket: /var/run/postgresql
    name: bulwark_ssl
    settings:
      ssl: true
      ssl_cert_file: "{{ files.files.certificate }}"
      ssl_key_file: "{{ files.files.key }}"
      ssl_ca_file: "{{ files.files.ca }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
needed:
  description: Whether another certificate has to be issued.
  returned: success
  type: bool
  sample: true
reasons:
  description: Why.
  returned: success
  type: list
  elements: str
  sample: ["expires on 2027-01-02 10:00 UTC, within 30 days"]
crl_reasons:
  description: Why revocation lists have to be made anew. Empty where they are good.
  returned: success
  type: list
  elements: str
  sample: []
clients:
  description:
    - The clients of O(clients) that need another certificate. C(revoked) says that they need another key, too.
    - C(digest) is the SHA-256 of the text of the one that there is.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: app, reason: there is none yet, revoked: false, digest: ""}
alternative_names:
  description: O(names) as a certificate request spells them.
  returned: success
  type: list
  elements: str
  sample: ["DNS:db1.example.org", "IP:10.0.0.5"]
certificate:
  description: The server's certificate after this run. V(null) where there is none.
  returned: success
  type: dict
  sample:
    subject: CN=db1.example.org
    issuer: CN=PostgreSQL CA 1
    names: [db1.example.org, 10.0.0.5]
    not_before: "2026-11-01T10:00:00+00:00"
    not_after: "2027-12-03T10:00:00+00:00"
    serial: 5A11F0
    fingerprint: 9c0e7a52d60b15a8ad09c6b8c8b21e7d60c1d25b54b0a9d2f0e3a6a8c5b0cf11
files:
  description: What the server's settings have to be. Empty strings for what there is none of.
  returned: success
  type: dict
  sample:
    certificate: /etc/postgresql/17/main/bulwark_tls/current/server.crt
    key: /etc/postgresql/17/main/bulwark_tls/current/server.key
    ca: /etc/postgresql/17/main/bulwark_tls/current/ca.crt
    crl: ""
directory:
  description: Where the generations are.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/bulwark_tls
owner:
  description: The user and the group that the files belong to, as numbers.
  returned: success
  type: dict
  sample: {user: 112, group: 117}
in_use:
  description: Whether the server speaks TLS with the certificate, as its settings say.
  returned: success
  type: bool
  sample: true
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "Everything is as declared"
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 170011
mistakes:
  description: The mistakes, each with the option that it is in.
  returned: when something is wrong
  type: list
  elements: dict
  sample:
    - path: pg_ssl_key
      message: does not fit the certificate
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import POLICY_OPTIONS, run
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls.converge import apply, certificate_data, plan
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls.material import CRYPTOGRAPHY_ERROR

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "certificate": {"type": "str"},
    "key": {"type": "path", "no_log": False},
    "key_content": {"type": "str", "no_log": True},
    "ca": {"type": "str"},
    "crl": {"type": "str"},
    "names": {"type": "list", "elements": "str", "default": []},
    "issuer": {"type": "str"},
    "revoked": {"type": "list", "elements": "str"},
    "clients": {"type": "list", "elements": "str", "default": []},
    "client_certificates": {"type": "str"},
    "issued_for": {"type": "int"},
    "renew_before": {"type": "int", "default": 30},
    "directory": {"type": "path"},
    **POLICY_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode, and return the module's result."""
    if CRYPTOGRAPHY_ERROR is not None:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=CRYPTOGRAPHY_ERROR)
    planned = plan(server, module.params, module.params["path_prefix"])
    for warning in planned.decision.warnings:
        module.warn(warning)
    changed = bool(planned.plan)
    if changed and not module.check_mode:
        apply(server, planned)
    decision = planned.decision
    done = ("The files would be installed" if module.check_mode else "The files are installed") if changed else "Everything is as declared"
    needed = f"; another certificate is needed: {'; '.join(decision.reasons)}" if decision.reasons else ""
    return {
        "changed": changed,
        "needed": bool(decision.reasons),
        "reasons": list(decision.reasons),
        "crl_reasons": list(decision.list_reasons),
        "clients": [asdict(client) for client in decision.clients],
        "alternative_names": planned.policy.alternative_names,
        "certificate": certificate_data(planned),
        "files": planned.files(),
        "directory": planned.directory,
        "owner": dict(zip(("user", "group"), planned.place.owner)),
        "in_use": planned.use.on,
        "diff": {"prepared": planned.plan.diff()},
        "msg": done + needed,
        "in_recovery": planned.facts.in_recovery,
        "server_version": planned.facts.version,
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
