from __future__ import annotations

import csv
import io
import json
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.chains import START_US, chain, event, signed
from tests.unit.audit.test_chain import details, texts

from trunkline.audit import entries
from trunkline.audit.chain import Entry, time_of


def row_of(entry: Entry) -> tuple[Any, ...]:
    """The entry as asyncpg gives it."""
    known = entry.event
    duration = None if known.duration_us is None else known.duration_us / 1000
    return (
        entry.seq,
        time_of(entry.recorded_us),
        entry.hash,
        uuid.UUID(known.tenant),
        uuid.UUID(known.id),
        time_of(known.occurred_us),
        *known[3:10],
        duration,
        *known[11:18],
        orjson.dumps(known.detail).decode(),
    )


@given(detail=details, target=texts, duration=st.none() | st.integers(0, 10**12))
def test_an_entry_comes_back_from_postgres_and_from_json_as_it_was(detail: Any, target: str, duration: int | None):
    entry = chain(1)[0]._replace(event=event(detail=detail, target=target, duration_us=duration))
    assert entries.from_row(row_of(entry)) == entry
    assert entries.from_json(json.loads(entries.json_line(entry))) == entry


def test_the_columns_are_those_that_a_row_is_read_by():
    assert len(entries.COLUMNS.split(", ")) == len(row_of(chain(1)[0]))


def test_an_entry_as_json_has_times_that_people_and_programs_read():
    said = entries.to_json(chain(1)[0])
    assert said["recorded_at"] == time_of(START_US + 1_000_000).isoformat(timespec="microseconds")[:-6] + "Z"
    assert (said["seq"], said["duration_ms"], said["hash"]) == (1, 12.0, chain(1)[0].hash.hex())
    assert tuple(said) == entries.FIELDS


@given(target=texts)
def test_csv_keeps_every_text_and_starts_no_formula(target: str):
    entry = chain(1)[0]._replace(event=event(target=target, detail={"name": "=1+1"}))
    written = entries.csv_header() + entries.csv_lines([entry])
    (row,) = csv.DictReader(io.StringIO(written.decode(), newline=""))
    assert row["target"].removeprefix("'") == target.removeprefix("'")
    assert not row["target"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert json.loads(row["detail"]) == {"name": "=1+1"}
    assert row["address"] == ""


def test_a_checkpoint_comes_back_from_json_as_it_was():
    checkpoint = signed(chain(1)[0])
    assert entries.checkpoint_from_json(json.loads(json.dumps(entries.checkpoint_json(checkpoint)))) == checkpoint


@pytest.mark.parametrize("missing", ["seq", "hash", "occurred_at"])
def test_json_that_is_no_entry_is_refused(missing: str):
    said = entries.to_json(chain(1)[0])
    del said[missing]
    with pytest.raises(KeyError):
        entries.from_json(said)
