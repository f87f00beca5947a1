"""Which server is the primary, asked of Sentinels that are played by sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hiredis
import pytest

from trunkline.errors import StartRefused
from trunkline.settings import load_settings
from trunkline.streams.address import Place, RedisAddress
from trunkline.streams.client import Redis
from trunkline.streams.connection import ConnectionLost, Unusable
from trunkline.streams.sentinel import Sentinels

PATIENCE = 10.0


def packed(*parts: str) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part.encode()) for part in parts)


class Played:
    """One Sentinel, that says what it is told to."""

    def __init__(
        self, primary: Place | None = None, epoch: int = 0, *, silent: bool = False, refuses: str = ""
    ) -> None:
        self.primary, self.epoch, self.silent, self.refuses = primary, epoch, silent, refuses
        self.connections = 0
        self.address = RedisAddress()
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Played]:
        """Until the end of the block; started anew it has the same port."""
        port = self.address.place.port if self.connections else 0
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = RedisAddress(Place(*server.sockets[0].getsockname()))
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        parser = hiredis.Reader()
        while piece := await reader.read(4096):
            parser.feed(piece)
            while command := parser.gets():
                if not self.silent:
                    writer.write(self._answer([part.decode() for part in command]))

    def _answer(self, command: list[str]) -> bytes:
        match command:
            case ["ROLE"]:
                return packed("slave", "10.0.0.1", "6379", "connected", "0")
            case ["SENTINEL", *_] if self.refuses:
                return f"-{self.refuses}\r\n".encode()
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"] if self.primary:
                return packed(self.primary.host, str(self.primary.port))
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _]:
                return b"*-1\r\n"
            case ["SENTINEL", "MASTER", "mymaster"] if self.primary:
                return packed("name", "mymaster", "config-epoch", str(self.epoch))
            case ["SENTINEL", "MASTER", _]:
                return b"-ERR No such master with that name\r\n"
            case _:
                return b"+OK\r\n"


Ask = Callable[..., Sentinels]


@pytest.fixture
async def play() -> AsyncIterator[Ask]:
    """Makes Sentinels of played ones, which must be running."""
    made: list[Sentinels] = []

    def make(*played: Played) -> Sentinels:
        made.append(Sentinels([each.address for each in played], "mymaster", "test"))
        return made[-1]

    async with asyncio.timeout(PATIENCE):
        yield make
    for each in made:
        each.close()


OLD, NEW = Place("10.0.0.1", 6379), Place("10.0.0.2", 6379)


async def test_all_are_asked_over_connections_that_stay(play: Ask) -> None:
    played = [Played(OLD) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for each in played:
            await stack.enter_async_context(each.running())
        sentinels = play(*played)
        assert await asyncio.gather(*(sentinels.primary() for _ in range(5))) == [OLD] * 5
        for each in played:
            each.primary, each.epoch = NEW, 1
        assert await sentinels.primary() == NEW
        assert all(each.connections <= 1 for each in played)


async def test_a_minority_that_has_not_heard_of_a_failover_is_not_believed(play: Ask) -> None:
    async with Played(OLD, 4).running() as behind, Played(NEW, 5).running() as one, Played(NEW, 5).running() as other:
        for order in ((behind, one, other), (one, behind, other), (other, one, behind)):
            assert await play(*order).primary() == NEW


async def test_one_that_is_gone_and_one_that_is_silent_cost_no_answer(play: Ask) -> None:
    async with Played(silent=True).running() as silent, Played(OLD).running() as last:
        async with Played().running() as gone:
            pass
        assert await play(gone, silent, last).primary() == OLD


async def test_one_that_comes_back_is_asked_again(play: Ask) -> None:
    played = Played(OLD)
    async with played.running():
        sentinels = play(played)
        assert await sentinels.primary() == OLD
    with pytest.raises(ConnectionLost):
        await sentinels.primary()
    async with played.running():
        assert await sentinels.primary() == OLD
    assert played.connections == 2


async def test_with_all_of_them_away_the_reason_is_told_and_it_may_pass(play: Ask) -> None:
    async with Played().running() as gone:
        pass
    with pytest.raises(ConnectionLost, match="no Sentinel answers") as lost:
        await play(gone).primary()
    assert not isinstance(lost.value, Unusable)


async def test_a_name_that_none_knows_is_named(play: Ask) -> None:
    async with Played().running() as one, Played().running() as other:
        with pytest.raises(Unusable, match="called 'mymaster'"):
            await play(one, other).primary()


async def test_a_refused_login_is_told(play: Ask) -> None:
    async with Played(refuses="NOAUTH Authentication required.").running() as one:
        with pytest.raises(Unusable, match="NOAUTH"):
            await play(one).primary()


async def test_a_process_that_the_sentinels_cannot_help_does_not_wait_for_them(play: Ask) -> None:
    async with Played().running() as one:
        url = f"redis+sentinel://{one.address}/mymaster"
        with pytest.raises(StartRefused, match="called 'mymaster'"):
            await Redis.connect(load_settings(environment="dev", redis_url=url), "test", patience=PATIENCE)


async def test_a_server_that_calls_itself_a_replica_is_not_taken_for_the_primary() -> None:
    async with Played().running() as server, Played(server.address.place).running() as one:
        url = f"redis+sentinel://{one.address}/mymaster"
        redis = Redis(load_settings(environment="dev", redis_url=url), "test")
        with pytest.raises(ConnectionLost, match="is no primary"):
            await redis.dial("test")
        await redis.aclose()
