"""The tables of people: users, what they may do where, invitations, sign-ins; and of the platform's operators."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.db import Base, HexId

_NOW = text("now()")
_ROLES = "role IN ('owner', 'admin', 'developer', 'auditor')"


class UserRow(Base):
    """A person with an account; what it may do is in its memberships."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("email = lower(email)", name="email"),)

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    email: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    disabled_at: Mapped[datetime | None]
    last_sign_in_at: Mapped[datetime | None]


class PasswordRow(Base):
    """A user's password, hashed; in a table of its own, so that no tenant's transaction ever sees one."""

    __tablename__ = "passwords"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    hash: Mapped[str] = mapped_column(Text)
    """argon2id, in the form of the PHC string format."""
    changed_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class MembershipRow(Base):
    """What a user may do at a tenant."""

    __tablename__ = "memberships"
    __table_args__ = (CheckConstraint(_ROLES, name="role"), Index(None, "user_id"))

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class InvitationRow(Base):
    """An offer of a role at a tenant, to whoever has its secret."""

    __tablename__ = "invitations"
    __table_args__ = (CheckConstraint(_ROLES, name="role"), Index(None, "tenant_id", "created_at"))

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    email: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the secret, which is nowhere."""
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class PasswordResetRow(Base):
    """The one way in which somebody may choose a new password without the old one; deleted when it is used."""

    __tablename__ = "password_resets"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the secret, which is nowhere."""
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]


class SignupCodeRow(Base):
    """A code with which somebody may sign up once, where signing up is by invitation."""

    __tablename__ = "signup_codes"

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    email: Mapped[str | None] = mapped_column(Text)
    """Whose it is; NULL for anybody's."""
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class OperatorRow(Base):
    """Who runs the platform: apart from users, and a member of no tenant."""

    __tablename__ = "operators"
    __table_args__ = (CheckConstraint("email = lower(email)", name="email"),)

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    email: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    password_hash: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    disabled_at: Mapped[datetime | None]


class SignInRow(Base):
    """A browser or script that is signed in, by the SHA-256 of its secret."""

    __tablename__ = "sign_ins"
    __table_args__ = (
        CheckConstraint("kind IN ('cookie', 'token')", name="kind"),
        CheckConstraint("num_nonnulls(user_id, operator_id) = 1", name="owner"),
        Index(None, "user_id"),
        Index(None, "expires_at"),
    )

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    operator_id: Mapped[str | None] = mapped_column(ForeignKey("operators.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]
    address: Mapped[str] = mapped_column(Text)
