# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The part of ansible.errors that the plugins use.
class AnsibleFilterError(Exception): ...
