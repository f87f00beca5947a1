"""`trunkline audit`: what was done, whether it is still told as it was, and copies of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_json, print_rows, printable, say_error, shown
from trunkline.cli.tenants import AsJson, Slug
from trunkline.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from trunkline.audit.chain import Entry, Head
    from trunkline.audit.checking import Report
    from trunkline.cli.environment import Deployment

app = typer.Typer(help=f"A tenant's audit log. {WHERE}", rich_markup_mode=None)

PLATFORM_SLUG = "-"
"""In place of a tenant: what is no tenant's."""

From = Annotated[str, typer.Option("--from", metavar="TIME", help="Not before this, such as 2026-11-01T00:00Z.")]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="Before this.")]
Signer = Annotated[
    list[str] | None,
    typer.Option(metavar="HEX", help="A further public key, as of before SECRET_KEY changed; may be repeated."),
]


@app.command()
def export(
    slug: Slug,
    form: Annotated[str, typer.Option("--format", help="jsonl, which can be verified, or csv.")] = "jsonl",
    since: From = "",
    until: To = "",
    output: Annotated[Path | None, typer.Option(help="A file; standard output if left out.")] = None,
) -> None:
    """Copy a tenant's log, oldest first.

    In place of a tenant, - means the platform's own log. Times are those of recording.
    """
    if form not in {"jsonl", "csv"}:
        raise UsageError("The format is jsonl or csv.")
    bounds = parse_time(since), parse_time(until)

    async def copy(there: Deployment) -> None:
        from trunkline.audit.by import CLI
        from trunkline.audit.export import Export

        tenant = await tenant_id(there, slug)
        exports = Export(there.database, there.settings.root, there.settings.export_rows)
        taking = await exports.begin(tenant, CLI, {"format": form})
        take = exports.csv if form == "csv" else exports.jsonl
        await _write(take(tenant, *bounds, taking), output)

    ask(copy)


@app.command()
def verify(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG ...]", help="Tenants; - is the platform's own log.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every tenant, deleted ones too, and the platform.")
    ] = False,
    file: Annotated[Path | None, typer.Option(help="An export in jsonl instead; it needs no deployment.")] = None,
    signer: Signer = None,
    as_json: AsJson = False,
) -> None:
    """Find whether a log is as it was written.

    Whatever was changed, deleted, inserted, reordered or cut off in the database is found, and so is a chain that
    was written anew without SECRET_KEY. Ends with exit code 1 then.
    """
    if file is not None:
        reports = {str(file): verify_file(file, signer or ())}
    elif slugs or everything:
        reports = ask(lambda there: _verify(there, slugs or [], signer or (), everything=everything))
    else:
        raise UsageError("Say which tenants, or --all, or --file.")
    if as_json:
        print_json([_as_json(name, report) for name, report in reports.items()])
    else:
        for name, report in reports.items():
            _show_report(name, report)
    if not all(report.intact for report in reports.values()):
        raise typer.Exit(1)


@app.command()
def head(slug: Slug, as_json: AsJson = False) -> None:
    """Show how far a tenant's log has come.

    Keep that somewhere else: nobody can take back what is before it.
    """

    async def look(there: Deployment) -> dict[str, Any]:
        from trunkline.audit.chain import time_of
        from trunkline.audit.query import standing
        from trunkline.audit.signing import CheckpointSigner

        signer = CheckpointSigner(there.settings.root)
        found = await standing(there.database, await tenant_id(there, slug))
        said: dict[str, Any] = {"seq": 0, "hash": None, "recorded_at": None, "signed": None}
        if found is not None:
            said = {"seq": found.head.seq, "hash": found.head.hash.hex()}
            said |= {"recorded_at": time_of(found.head.recorded_us)}
            said |= {"signed": found.checkpoint.seq if found.checkpoint else None}
        return said | {"kid": signer.kid, "signer": signer.public.hex()}

    found = ask(look)
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name.replace('_', ' '):12} {shown(value)}")


@app.command()
def query(
    slug: Slug,
    action: Annotated[str, typer.Option(help="A name, or the beginning of names: 'key.*'.")] = "",
    actor: Annotated[str, typer.Option(help="Id of a key, user or operator.")] = "",
    target: Annotated[str, typer.Option(help="A tool's name, a key's id.")] = "",
    outcome: Annotated[str, typer.Option(help="Such as ok, error, timeout.")] = "",
    session: Annotated[str, typer.Option(help="Id of an MCP session.")] = "",
    since: From = "",
    until: To = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what is in a tenant's log, newest first."""
    from trunkline.audit.entries import to_json
    from trunkline.audit.query import Filters, page

    filters = Filters(
        action or None, actor or None, target or None, outcome or None, session or None, parse_time(since),
        parse_time(until),
    )  # fmt: skip

    async def look(there: Deployment) -> list[Entry]:
        tenant = await tenant_id(there, slug)
        entries: list[Entry] = []
        before: int | None = None
        while len(entries) < limit:
            found = await page(there.database, tenant, filters, before, limit - len(entries))
            entries += found.entries
            if (before := found.next) is None:
                break
        return entries

    rows = [to_json(entry) for entry in ask(look)]
    print_rows(rows, ["seq", "occurred_at", "actor", "action", "target", "outcome"], as_json=as_json)


@app.command()
def tail(
    slug: Slug,
    after: Annotated[int, typer.Option(metavar="SEQ", min=0, help="Begin after this entry instead of now.")] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each entry.")] = False,
) -> None:
    """Show what is recorded in a tenant's log as it comes, until interrupted."""

    async def follow(there: Deployment) -> None:
        from trunkline.audit.tail import Tail

        tails = Tail(there.redis, there.database)
        stream = tails.entries(await tenant_id(there, slug), None if after < 0 else after)
        try:
            async with aclosing(stream) as entries:  # type: ignore[type-var]
                async for entry in entries:
                    if entry is not None:
                        _print_entry(entry, as_json=as_json)
        finally:
            await tails.aclose()

    change(follow)


def verify_file(file: Path, signers: Sequence[str]) -> Report:
    """What is found in a copy; it is trusted what the given signers, or those of the deployment, have signed."""
    from trunkline.audit.signing import CheckpointSigner, read_signers
    from trunkline.audit.verify import verify_copy
    from trunkline.cli.environment import deployment_settings

    trusted = read_signers(signers) if signers else CheckpointSigner(deployment_settings().root).signers()
    try:
        with file.open("rb") as lines:
            return verify_copy(lines, trusted)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error


async def tenant_id(there: Deployment, slug: str) -> str:
    """The id of a tenant, or that of the platform's own log."""
    from trunkline.audit.by import PLATFORM

    return PLATFORM if slug == PLATFORM_SLUG else (await there.tenants.get(slug)).id


def parse_time(text: str) -> datetime | None:
    """A time as ISO 8601, UTC where no zone is said; None for no text.

    Raises:
        UsageError: it is none.
    """
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time; write it like 2026-11-01T00:00Z.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


async def _verify(
    there: Deployment, slugs: Sequence[str], others: Sequence[str], *, everything: bool
) -> dict[str, Report]:
    from trunkline.audit.anchors import Anchors
    from trunkline.audit.query import chains
    from trunkline.audit.signing import CheckpointSigner, HeadSealer
    from trunkline.audit.verify import verify as verify_chain

    sealer = HeadSealer(there.settings.root)
    signers = CheckpointSigner(there.settings.root).signers(others)
    anchors = Anchors(there.redis, sealer)
    named = {slug: await tenant_id(there, slug) for slug in slugs}
    if everything:
        named |= {tenant.slug: tenant.id for tenant in await there.tenants.list()}
        named[PLATFORM_SLUG] = await tenant_id(there, PLATFORM_SLUG)
        named |= {each: each for each in await chains(there.database) if each not in named.values()}
    return {
        slug: await verify_chain(there.database, tenant, sealer, signers, await _anchor(anchors, tenant))
        for slug, tenant in named.items()
    }


async def _anchor(anchors: Any, tenant: str) -> Head | None:
    """The head that Redis keeps; without Redis the log is verified against Postgres alone."""
    try:
        found: Head | None = await anchors.get(tenant)
    except Unavailable:
        say_error("Redis is away: whether an old state of the database was put back cannot be told.")
        return None
    return found


async def _write(parts: AsyncIterator[bytes], output: Path | None) -> None:
    try:
        with nullcontext(sys.stdout.buffer) if output is None else output.open("wb") as file:
            async with aclosing(parts) as stream:  # type: ignore[type-var]
                async for part in stream:
                    await asyncio.to_thread(file.write, part)
            file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from error


def _print_entry(entry: Entry, *, as_json: bool) -> None:
    from trunkline.audit.entries import json_line, to_json

    if as_json:
        typer.echo(json_line(entry).decode(), nl=False)
        return
    said = to_json(entry)
    names = ("seq", "occurred_at", "actor", "action", "target", "outcome")
    typer.echo("  ".join(shown(said[name]) for name in names))


def _show_report(name: str, report: Report) -> None:
    entries = f"{report.entries} entries"
    if report.span is not None:
        entries += f" ({report.span[0]} to {report.span[1]})"
    if report.intact:
        typer.echo(f"{printable(name)}: {entries}, all as they were written.")
        return
    typer.echo(f"{printable(name)}: {entries}, {len(report.findings)} findings:")
    for finding in report.findings:
        typer.echo(f"  {finding.kind}: {printable(finding.detail)}")


def _as_json(name: str, report: Report) -> dict[str, Any]:
    findings = [finding._asdict() for finding in report.findings]
    span = dict(zip(("from", "to"), report.span or (), strict=False))
    return {"name": name, "tenant": report.tenant, "entries": report.entries, **span, "findings": findings}
