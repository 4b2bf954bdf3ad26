"""What a scenario may ask for."""

from __future__ import annotations

import pytest

from tests.lab import molecule
from tests.lab.errors import LabError


def test_platforms_become_machines_owned_by_the_scenario() -> None:
    scenario = {"platforms": [{"name": "engine-13"}, {"name": "engine-12", "image": "bookworm", "groups": ["nodes"]}]}
    found = molecule.platforms(scenario, "engine")
    assert [(machine.name, machine.image) for machine in found] == [("engine-13", "trixie"), ("engine-12", "bookworm")]
    assert {machine.owner for machine in found} == {"molecule/engine"}
    assert {machine.gpus for machine in found} == {0}


def test_a_platform_may_have_simulated_gpus() -> None:
    assert [machine.gpus for machine in molecule.platforms({"platforms": [{"name": "a", "gpus": 2}]}, "s")] == [2]


def test_the_image_of_a_whole_run_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLECULE_IMAGE", "bookworm")
    scenario = {"platforms": [{"name": "a"}, {"name": "b", "image": "trixie-docker"}]}
    assert [machine.image for machine in molecule.platforms(scenario, "s")] == ["bookworm", "bookworm-docker"]


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ({"name": "x", "cap_drop": ["ALL"]}, "platform key 'cap_drop' is unknown"),
        ({"name": "x", "gpus": "two"}, "platform x has 'two' gpus: it needs a number"),
        ({"name": "node1"}, "'node1' is a machine of the lab"),
    ],
)
def test_what_means_nothing_here_is_refused(platform: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        molecule.platforms({"platforms": [platform]}, "s")
