"""Every key and channel in Redis: what it holds and when it expires.

All keys of one lane carry the hash tag `{l<k>}`, so a Redis Cluster keeps them on one shard and no script ever
touches two. A key of a tenant cannot be built without the tenant. Scripts that treat many calls at once build the same
names themselves, from what the lane's keys begin with (docs/decisions/0009-batches.md).

| key (after the prefix, `tl1:` by default) | type | holds | expiry |
|---|---|---|---|
| `{l<k>}:calls` | stream | accepted messages of the lane's tenants; consumer group `workers` | entries leave when acknowledged |
| `{l<k>}:audit` | stream | audit events on their way to Postgres; consumer group `audit` | entries leave when written |
| `{l<k>}:unwritten` | string | how many events all entries of `audit` have together | leaves with the last |
| `{l<k>}:deadlines` | sorted set | `<tenant>:<session>:<call>` of every unanswered request, by deadline in epoch ms | members leave with the answer |
| `{l<k>}:slots` | string | how many calls all workers together run at once, as they last counted | a minute |
| `{l<k>}:parked` | stream | calls set aside because each attempt cost a worker; the newest 1,000 | 30 days after the last |
| `{l<k>}:surplus` | set | what the keys of the tenants that have a surplus begin with | members leave with the surplus |
| `{l<k>}:t:<tenant>:surplus` | stream | accepted requests beyond `slots`, waiting for earlier ones of the tenant to end | SESSION_TTL after the last |
| `{l<k>}:t:<tenant>:s:<sid>` | hash | the session: its transport and owner, what it negotiated, which pod holds its own stream, how far that one's outbox has come; field `p:<call>` for each request not answered yet, `o:<call>` for its attempt once that was started | SESSION_TTL after last use; that of a stateless request leaves with its answer |
| `{l<k>}:t:<tenant>:s:<sid>:out` | stream | the outbox: `<offset>-<epoch ms>` of what was sent on the session's own stream | 1 to 1.25 OUTBOX_TTL after the last message |
| `{l<k>}:t:<tenant>:s:<sid>.<call>` | hash | the stream of a POST once more than its answer was sent on it, or another pod has taken it over: which pod holds it, how far its outbox has come | SESSION_TTL after last use; leaves when the answer was delivered whole |
| `{l<k>}:t:<tenant>:s:<sid>.<call>:out` | stream | its outbox | as that of the session |
| `{l<k>}:t:<tenant>:s:<sid>:subs` | set | resources whose updates the session wants to hear of | with the session |
| `{l<k>}:t:<tenant>:subscribers` | set | the tenant's sessions that have such | SESSION_TTL after the last use of one |
| `{l<k>}:t:<tenant>:q:<sid>:<call>` | hash | by attempt and number, each request that a tool sent to its client: the worker that waits, or `!` and the response | CLIENT_TIMEOUT and a minute after the last |
| `{l<k>}:t:<tenant>:told:<id>` | string | nothing: that a change was announced to the tenant's sessions | a minute |
| `{l<k>}:t:<tenant>:sessions` | sorted set | the tenant's sessions, by the epoch ms at which they end | SESSION_TTL after last use |
| `{l<k>}:t:<tenant>:usage` | hash | `inflight`: the tenant's members in `deadlines`; `due`, `opened`: theoretical arrival times of the limits on messages and on new sessions (GCRA), epoch us | SESSION_TTL after last use |
| `{l<k>}:t:<tenant>:k:<hash>` | string | a browser's one-time ticket: the principal it stands for | TICKET_LIFETIME |
| `{l<k>}:t:<tenant>:quota:<month>` | hash | what was used in the month, once it is known (`seeded`, and `seeded:tenant` of the whole tenant): `calls`, `us` of the tenant, `calls:<key>`, `us:<key>` of limited keys, `told:<what>:<key>` once an event said that it is beyond the soft quota | 40 days after the last call |
| `{l<k>}:t:<tenant>:quota:open` | sorted set | metered tool calls not answered yet, by the epoch ms at which they surely are | as long as a call may take |
| `{l<k>}:t:<tenant>:key:<key>` | sorted set | the same of a key with a most in flight or a quota | as long as a call may take |
| `{l<k>}:t:<tenant>:key:<key>:sessions` | sorted set | the sessions that a key with a most of them has opened; those that have ended since are not in `sessions` | 40 days after the last was opened |
| `{l<k>}:t:<tenant>:key:<key>:due` | string | theoretical arrival time of a key with a rate, epoch us | a minute past its burst |
| `{l<k>}:pod:<pod>` | channel | live copies of outbox entries, for the pod that holds the stream | |
| `{l<k>}:worker:<worker>` | channel | live copies of responses to requests that the worker's tools sent to clients | |
| `control` | channel | cancellations, revocations, changes of tenants; every pod listens | |
| `confirm` | channel | nothing, and nobody listens: a write that WAIT can wait for | |
| `tail` | channel | ids of tenants whose audit log has grown; pods that follow one listen | |
| `snapshot:<kind>:<name>` | hash | the newest known state of a record in Postgres, for pods that find Postgres away | 7 days |
| `revoked` | hash | id of each revoked, not yet expired key: from when it is refused | fields leave with the key's own expiry |
| `throttle:<kind>:<hash>` | string | when the next try of somebody (an address, an account) is due (GCRA), epoch us | twice the burst's time |
| `emergency` | hash | `revoke:<key>` and `suspend:<slug>` that are in force and not in Postgres yet: when, and by whom | fields leave when written |
| `suspects` | hash | by worker, the call that begins there after it was lost with two others | a day after the last |
| `looked` | string | nothing: that it can be written shows that workers can give signs of life | a minute |
| `workers` | sorted set | `<worker> <slots>`, by the epoch ms until which the last sign of life holds | members leave a minute later |
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

from trunkline.settings import Settings

CALLS_GROUP = b"workers"
AUDIT_GROUP = b"audit"


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The keys that a tenant's calls touch beside those of the session."""

    number: int
    """The tenant's lane."""
    lane: str
    """What all keys of the lane begin with."""
    base: str
    """What all keys of the tenant begin with."""
    calls: str
    deadlines: str
    usage: str
    sessions: str
    subscribers: str
    pods: str
    """What the channels of all pods begin with, in this lane."""
    workers: str
    """What the channels of all workers begin with, in this lane."""


class Keys:
    """Builds the names of keys and channels for one deployment."""

    def __init__(self, settings: Settings) -> None:
        self.prefix = settings.redis_prefix
        self.lanes = settings.lanes
        self.control = f"{self.prefix}control"
        self.confirm = f"{self.prefix}confirm"
        self.tail = f"{self.prefix}tail"
        self.revoked = f"{self.prefix}revoked"
        self.emergency = f"{self.prefix}emergency"
        self.workers = f"{self.prefix}workers"
        self.suspects = f"{self.prefix}suspects"
        self.looked = f"{self.prefix}looked"
        self.tenant = lru_cache(20_000)(self._tenant)
        """The keys of a tenant, by its id; computed once for the busy ones."""

    def lane_of(self, tenant: str) -> int:
        """The lane of a tenant; the same in every process of a deployment, for good."""
        if not tenant:
            raise ValueError("a key of a tenant needs the tenant")
        return zlib.crc32(tenant.encode()) % self.lanes

    def lane(self, number: int) -> str:
        """What all keys of lane `number` begin with."""
        return f"{self.prefix}{{l{number}}}:"

    def calls(self, lane: int) -> str:
        """The lane's stream of accepted messages."""
        return f"{self.lane(lane)}calls"

    def audit(self, lane: int) -> str:
        """The lane's stream of audit events."""
        return f"{self.lane(lane)}audit"

    def unwritten(self, lane: int) -> str:
        """How many events the lane's audit stream holds."""
        return f"{self.lane(lane)}unwritten"

    def deadlines(self, lane: int) -> str:
        """The lane's unanswered requests by deadline."""
        return f"{self.lane(lane)}deadlines"

    def slots(self, lane: int) -> str:
        """How many calls all workers together run at once."""
        return f"{self.lane(lane)}slots"

    def parked(self, lane: int) -> str:
        """The lane's calls that were set aside."""
        return f"{self.lane(lane)}parked"

    def pods(self, lane: int) -> str:
        """What the channels of all pods begin with, in this lane."""
        return f"{self.lane(lane)}pod:"

    def workers_of(self, lane: int) -> str:
        """What the channels of all workers begin with, in this lane."""
        return f"{self.lane(lane)}worker:"

    def _tenant(self, tenant: str) -> TenantKeys:
        number = self.lane_of(tenant)
        lane = self.lane(number)
        base = f"{lane}t:{tenant}:"
        return TenantKeys(
            number=number,
            lane=lane,
            base=base,
            calls=self.calls(number),
            deadlines=self.deadlines(number),
            usage=f"{base}usage",
            sessions=f"{base}sessions",
            subscribers=f"{base}subscribers",
            pods=self.pods(number),
            workers=self.workers_of(number),
        )

    def stream(self, tenant: str, name: str) -> tuple[str, str]:
        """A stream's record and its outbox; the record of a session's own stream is the session's hash."""
        base = f"{self.tenant(tenant).base}s:{name}"
        return base, f"{base}:out"

    def subscriptions(self, tenant: str, session: str) -> str:
        """What a session wants to hear of."""
        return f"{self.tenant(tenant).base}s:{session}:subs"

    def questions(self, tenant: str, session: str, call: str) -> str:
        """The requests that a call's tool has sent to its client."""
        return f"{self.tenant(tenant).base}q:{session}:{call}"

    def told(self, tenant: str, change: str) -> str:
        """Whether a change was announced."""
        return f"{self.tenant(tenant).base}told:{change}"

    def ticket(self, tenant: str, digest: str) -> str:
        """A one-time ticket, by the SHA-256 of its secret."""
        return f"{self.tenant(tenant).base}k:{digest}"

    def snapshot(self, kind: str, name: str) -> str:
        """The newest known state of a record."""
        return f"{self.prefix}snapshot:{kind}:{name}"

    def throttle(self, kind: str, digest: str) -> str:
        """How often somebody has tried something, by the SHA-256 of who it is."""
        return f"{self.prefix}throttle:{kind}:{digest}"

    def quota(self, tenant: str, month: str) -> str:
        """What a tenant and its limited keys have used in a month."""
        return f"{self.tenant(tenant).base}quota:{month}"

    def key_open(self, tenant: str, key: str) -> str:
        """The open tool calls of a limited key; its rate is beside it."""
        return f"{self.tenant(tenant).base}key:{key}"
