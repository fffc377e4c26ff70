# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes by Patroni where its REST interface does not always answer. A mock stands for the interface: a real one fails at no chosen moment."""

from __future__ import annotations

import io
import json
from email.message import Message
from typing import Any, Callable
from urllib.error import HTTPError, URLError

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import install
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.patroni import Patroni

CHANGE = install.PatroniPatch({"loop_wait": 5}, {"loop_wait": 10}, patience=0.5)


class Interface:
    """Takes changes of one value. answers: for each change its HTTP status, or 0 for one that is carried out and not answered; then 200."""

    def __init__(self, *answers: int) -> None:
        self._answers = list(answers)
        self.value = 10

    def open_url(self, url: str, data: str, **_rest: Any) -> io.BytesIO:
        """As open_url of Ansible does."""
        answer = self._answers.pop(0) if self._answers else 200
        if answer >= 400:
            raise HTTPError(url, answer, "", Message(), None)
        self.value = json.loads(data)["loop_wait"]
        if answer == 0:
            raise URLError("timed out")
        return io.BytesIO(data.encode())

    def changed(self, missing: Callable[[bool], str | None]) -> None:
        """Make the change."""
        install.install_by_patroni(Patroni(self.open_url, "http://one", user=None, password=None, ca_cert=None), CHANGE, missing)


def there(_late: bool) -> None:
    """The server has the change."""


def unreachable(_late: bool) -> str:
    """The server cannot be asked."""
    raise BulwarkError("no new session")


@pytest.mark.parametrize("answers", [(), (409, 503), (0,)])
def test_a_change_that_patroni_cannot_make_at_once_is_sent_again(answers: tuple[int, ...]) -> None:
    interface = Interface(*answers)
    interface.changed(there)
    assert interface.value == 5


@pytest.mark.parametrize("answers", [(200,), (200, 409, 503), (200, 0)])
def test_the_way_back_is_sent_again_where_patroni_does_not_take_it_at_once(answers: tuple[int, ...]) -> None:
    interface = Interface(*answers)
    with pytest.raises(BulwarkError, match=r"^no new session; Patroni's dynamic configuration is as it was$"):
        interface.changed(unreachable)
    assert interface.value == 10


def test_a_way_back_that_fails_is_told_with_what_led_to_it() -> None:
    interface = Interface(200, *[503] * 9)
    with pytest.raises(BulwarkError, match=r"^no new session; and the way back failed: .* with 503: .*show-config"):
        interface.changed(unreachable)


def test_what_patroni_refuses_is_not_sent_again() -> None:
    interface = Interface(403)
    with pytest.raises(BulwarkError, match="with 403"):
        interface.changed(there)
    assert interface.value == 10
