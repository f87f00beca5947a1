from __future__ import annotations

import orjson

from trunkline.tenants.model import Limits, ToolsetSwitch
from trunkline.tenants.snapshot import decode, encode
from trunkline.tenants.tables import TenantRow, ToolsetRow

LIMITS = Limits(1.0, 2, 3, 4)


def row() -> TenantRow:
    return TenantRow(
        id="01" * 16, slug="acme", name="Acme", access="key", status="active", rate=None, burst=None, in_flight=None,
        sessions=None, version=7,
    )  # fmt: skip


def toolset(name: str, position: int, *, on: bool, configured: int) -> ToolsetRow:
    return ToolsetRow(name=name, position=position, enabled=on, config_version=configured)


def test_toolsets_come_back_with_the_versions_of_their_configurations() -> None:
    toolsets = [
        toolset("demo", 1, on=True, configured=0),
        toolset("weather", 2, on=True, configured=9),
        toolset("tides", 3, on=False, configured=5),
    ]
    tenant = decode(encode(row(), toolsets), LIMITS)
    assert tenant is not None
    assert tenant.toolsets == (
        ToolsetSwitch("demo", True),
        ToolsetSwitch("weather", True),
        ToolsetSwitch("tides", False),
    )
    assert tenant.configured == (("weather", 9),)


def test_a_snapshot_of_the_version_before_is_read() -> None:
    older = orjson.loads(encode(row(), [])) | {"toolsets": [["demo", True]]}
    tenant = decode(orjson.dumps(older), LIMITS)
    assert tenant is not None
    assert tenant.toolsets == (ToolsetSwitch("demo", True),)
    assert tenant.configured == ()
