"""What can be simulated."""

from __future__ import annotations

import pytest

from tests.lab import gpu, plan
from tests.lab.errors import LabError
from tests.lab.plan import Machine

UUID = "GPU-11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("count", "driver", "uuids", "expected"),
    [
        (2, "580.105.08", None, ["2", "580.105.08"]),
        (0, "590.44", None, ["0", "590.44"]),
        (1, "590.44.01", [UUID], ["1", "590.44.01", UUID]),
    ],
)
def test_the_script_on_the_machine_is_told(
    count: int, driver: str, uuids: list[str] | None, expected: list[str]
) -> None:
    assert gpu.arguments(count, driver, uuids) == expected


@pytest.mark.parametrize(
    ("count", "driver", "uuids", "message"),
    [
        (-1, "580.1", None, "-1 GPUs can't be simulated: it needs 0 to 32"),
        (33, "580.1", None, "33 GPUs"),
        (1, "../580", None, "no version: it needs one like 580.105.08"),
        (2, "580.1", [UUID], "1 UUIDs for 2 GPUs"),
        (1, "580.1", ["GPU-x"], "it needs one like GPU-"),
    ],
)
def test_what_makes_no_sense_is_refused(count: int, driver: str, uuids: list[str] | None, message: str) -> None:
    with pytest.raises(LabError, match=message):
        gpu.arguments(count, driver, uuids)


@pytest.mark.parametrize(
    ("there", "planned", "installed"),
    [(None, 0, []), (None, 2, [2]), (2, 2, []), (1, 2, [2]), (1, 0, []), (0, 2, [2])],
)
def test_a_machine_gets_the_gpus_of_the_plan_and_keeps_what_fits(
    monkeypatch: pytest.MonkeyPatch, there: int | None, planned: int, installed: list[int]
) -> None:
    done: list[int] = []
    monkeypatch.setattr(gpu, "configured", lambda _: there)
    monkeypatch.setattr(gpu, "install", lambda _, count: done.append(count))
    gpu.ensure(Machine(name="m", image="trixie", gpus=planned))
    assert done == installed


def test_one_node_of_the_plan_has_gpus_and_one_has_none() -> None:
    assert {machine.name: machine.gpus for machine in plan.MACHINES} == {"registry": 0, "node1": 2, "node2": 0}


def test_the_driver_and_the_script_know_the_same_bounds() -> None:
    library = (gpu.HERE / "nvml.c").read_text(encoding="utf-8")
    script = (gpu.HERE / "lab-gpu").read_text(encoding="utf-8")
    assert f"#define MOST {gpu.MOST}\n" in library
    assert f"most={gpu.MOST}\n" in script
    assert "#define FIRST_BUS 0x41\n" in library
    assert f"first_bus={0x41}\n" in script
