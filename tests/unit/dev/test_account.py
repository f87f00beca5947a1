from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from trunkline.dev.account import Account
from trunkline.errors import StartRefused


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_an_ordinary_user_runs_the_stores_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    account = Account.for_data(tmp_path / "data")
    assert (account.name, account.foreign, account.identity) == ("nobody", False, {})


def test_a_user_without_an_entry_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    with pytest.raises(StartRefused, match=r"user id 3999999 has no entry in the password database.*_URL\.$"):
        Account.for_data(tmp_path)


@pytest.mark.usefixtures("as_root")
def test_root_hands_the_stores_to_an_account_that_has_no_other_groups(tmp_path: Path) -> None:
    account = Account.for_data(tmp_path / "data")
    assert account.name in {"postgres", "nobody"}
    assert account.identity["extra_groups"] == ()
    assert account.identity["user"] != 0
    assert account.identity["group"] != 0


@pytest.mark.usefixtures("as_root")
def test_root_without_such_an_account_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", missing)
    with pytest.raises(StartRefused, match="neither a user 'postgres' nor 'nobody'"):
        Account.for_data(tmp_path / "data")
