"""`trunkline member`: who belongs to a tenant. `trunkline permissions`: what they may do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_rows, say_error, shown
from trunkline.cli.tenants import AsJson, Slug

app = typer.Typer(help=f"Members of a tenant. {WHERE}", rich_markup_mode=None)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The member's email address.")]


@app.command("list")
def list_members(slug: Slug, as_json: AsJson = False) -> None:
    """List a tenant's members."""
    print_rows(ask(lambda there: _rows(there, slug)), ["email", "name", "role", "created_at"], as_json=as_json)


@app.command()
def invite(
    slug: Slug,
    email: Email,
    role: Annotated[str, typer.Option(help="owner, admin, developer or auditor.")] = "owner",
) -> None:
    """Invite somebody to a tenant.

    The link is shown this once; give it to them.
    """
    from trunkline.errors import UsageError
    from trunkline.tenants.roles import ROLES

    if role not in ROLES:
        raise UsageError(f"A role is one of {', '.join(ROLES)}; not {role!r}.")
    link, until = change(lambda there: _invite(there, slug, email, role))
    typer.echo(link)
    say_error(f"It is good until {shown(until)} UTC, once. It is not shown again.")


@app.command()
def remove(slug: Slug, email: Email) -> None:
    """Take a member out of a tenant; a tenant keeps an owner."""
    change(lambda there: _remove(there, slug, email))
    typer.echo(f"Removed {email} from {slug}.")


def permissions(as_json: AsJson = False) -> None:
    """Print what each role, and a key with each scope, may do on the control plane."""
    from trunkline.tenants.roles import PERMISSIONS, ROLES, SCOPE_PERMISSIONS, Permission

    who: dict[str, frozenset[Permission]] = {
        **{str(role): allowed for role, allowed in ROLES.items()},
        **{scope: allowed for scope, allowed in SCOPE_PERMISSIONS.items() if allowed},
    }
    rows = [
        {"permission": permission, **{name: permission in allowed for name, allowed in who.items()}}
        for permission in PERMISSIONS
    ]
    print_rows(rows, ["permission", *who], as_json=as_json)


async def _rows(there: Any, slug: str) -> list[dict[str, object]]:
    tenant = await there.tenants.get(slug)
    found = await there.members().page(tenant.id, None, 10_000)
    return [
        {
            "id": each.user.id,
            "email": each.user.email,
            "name": each.user.name,
            "role": each.role,
            "created_at": each.created_at,
        }
        for each in found
    ]


async def _invite(there: Any, slug: str, email: str, role: Any) -> tuple[str, object]:
    from trunkline.audit.by import CLI

    tenant = await there.tenants.get(slug)
    secret, made = await there.members().invite(tenant.id, email, role, "owner", CLI)
    return f"{there.settings.public_url}/invite#{secret}", made.expires_at


async def _remove(there: Any, slug: str, email: str) -> None:
    from trunkline.audit.by import CLI

    tenant, members = await there.tenants.get(slug), there.members()
    member = await members.find(tenant.id, email)
    await members.remove(tenant.id, member.user.id, "owner", CLI)
