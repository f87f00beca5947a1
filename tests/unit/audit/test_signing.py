from __future__ import annotations

import pytest
from pydantic import SecretStr
from tests.unit.audit.chains import ROOT, SEALER, SIGNER, TENANT, chain, head_of, signed

from trunkline.audit.signing import CheckpointSigner, HeadSealer, read_signers, verifies
from trunkline.errors import StartRefused, UsageError

ELSEWHERE = SecretStr("another root of at least thirty-two characters")


def test_a_head_holds_with_its_own_code_alone():
    head = head_of(chain(2), base_seq=1)
    mac = SEALER.mac(head)
    assert SEALER.holds(head, mac)
    for changed in (
        head._replace(tenant="0" * 32),
        head._replace(seq=3),
        head._replace(hash=b"\0" * 32),
        head._replace(recorded_us=1),
        head._replace(base_seq=0),
        head._replace(broken_at=1),
    ):
        assert not SEALER.holds(changed, mac)
    assert not SEALER.holds(head, b"")
    assert not HeadSealer(ELSEWHERE).holds(head, mac)


def test_a_head_kept_elsewhere_comes_back_as_it_was():
    head = head_of(chain(2), broken_at=1)
    assert SEALER.unpack(SEALER.pack(head)) == head


@pytest.mark.parametrize("packed", [b"", b"[]", b"{", b"null", b'["a",1,"zz",1,0,null,"00"]'])
def test_what_is_no_head_is_none(packed: bytes):
    assert SEALER.unpack(packed) is None


def test_a_head_kept_elsewhere_by_somebody_else_is_none():
    assert SEALER.unpack(HeadSealer(ELSEWHERE).pack(head_of(chain(1)))) is None


def test_a_checkpoint_verifies_with_the_public_key_alone():
    checkpoint = signed(chain(1)[0])
    public = read_signers([SIGNER.public.hex()])
    assert list(public) == [SIGNER.kid]
    assert SIGNER.kid.startswith("audit-")
    assert verifies(checkpoint, public)
    for changed in (
        checkpoint._replace(tenant="0" * 32),
        checkpoint._replace(seq=2),
        checkpoint._replace(hash=b"\0" * 32),
        checkpoint._replace(recorded_us=1),
        checkpoint._replace(kind="retention"),
        checkpoint._replace(signature=b""),
        checkpoint._replace(kid="audit-0000000000000000"),
    ):
        assert not verifies(changed, public)


def test_a_checkpoint_of_an_earlier_root_verifies_with_its_public_key():
    old = CheckpointSigner(ELSEWHERE)
    checkpoint = old.sign(signed(chain(1)[0]))
    assert checkpoint.tenant == TENANT
    assert not verifies(checkpoint, SIGNER.signers())
    assert verifies(checkpoint, SIGNER.signers([old.public.hex()]))


@pytest.mark.parametrize("public", ["", "zz", "00" * 31])
def test_a_public_key_that_is_none_is_refused_in_one_sentence(public: str):
    with pytest.raises(UsageError, match="32 bytes in hex"):
        read_signers([public])


def test_without_a_root_nothing_is_signed():
    for make in (HeadSealer, CheckpointSigner):
        with pytest.raises(StartRefused, match="SECRET_KEY"):
            make(SecretStr(""))


def test_heads_and_checkpoints_have_keys_of_their_own():
    assert HeadSealer(ROOT).mac(head_of(chain(1))) != SIGNER.public
