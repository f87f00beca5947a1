"""The streams that this pod holds, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trunkline.api.events import REPLACED, EventStream
from trunkline.api.stream import Stream
from trunkline.envelope import Accepted, Delivery


class Connections:
    """All streams that this pod holds."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._attaching: dict[str, list[Stream]] = {}
        self.listening: set[EventStream] = set()
        """Streams that are no session's, and have no name."""
        self.catch_up: Callable[[Stream], None] = lambda _: None
        """What brings a stream up to date that has begun and is behind."""

    def __iter__(self) -> Iterator[EventStream]:
        return iter([*self._streams.values(), *self.listening])

    def streams(self) -> Iterator[Stream]:
        """Those that belong to sessions, and the exchanges."""
        return iter(list(self._streams.values()))

    def add(self, stream: Stream) -> None:
        """A stream is open; one of the same name before it ends."""
        before = self._streams.get(stream.name)
        if before is not None and before.generation > stream.generation:
            stream.end(REPLACED)
            return
        self._streams[stream.name] = stream
        if before is not None:
            before.end(REPLACED)

    def remove(self, stream: Stream) -> None:
        """A stream has ended."""
        if self._streams.get(stream.name) is stream:
            del self._streams[stream.name]

    def get(self, name: str) -> Stream | None:
        """The stream of that name, if this pod holds it."""
        return self._streams.get(name)

    def hold_for(self, stream: Stream) -> None:
        """Let a stream that is being attached hold what arrives for it, until `release`."""
        stream.hold_back()
        self._attaching.setdefault(stream.name, []).append(stream)

    def release(self, stream: Stream) -> None:
        """The stream is attached, or it was refused."""
        attaching = self._attaching[stream.name]
        attaching.remove(stream)
        if not attaching:
            del self._attaching[stream.name]

    def hold(self, arrived: Delivery | Accepted) -> None:
        """Keep what arrived for the streams of its name that are being attached."""
        if not self._attaching:
            return
        name = arrived.session if isinstance(arrived, Accepted) else arrived.stream
        for stream in self._attaching.get(name, ()):
            stream.keep(arrived)
