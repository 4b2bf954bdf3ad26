"""The lab itself, where a playbook does not show what it does."""

from __future__ import annotations

import threading

from tests.lab import engine, images, plan


def test_machines_may_go_while_others_are_listed() -> None:
    """As when one molecule run is destroyed while another one creates its machines."""
    image = images.ensure("gateway")

    def come_and_go() -> None:
        for _ in range(30):
            made = engine.client().containers.create(image, labels={plan.LABEL_MACHINE: "passing"})
            assert engine.remove(made)
            assert not engine.remove(made)

    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in others:
        thread.start()
    while any(thread.is_alive() for thread in others):
        engine.own_containers()
        engine.clear_leftovers()
