"""Everything that has to be built before machines can be made, at once where the parts don't need each other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.lab import golang, gpu, hadoop, images, internet, kubernetes, paths, spark
from tests.lab.recipes import MACHINE_IMAGES, RECIPES, Base, Layer

# Bootstrapping waits for the network and the compiler for the processor: three at a time keep two cores busy.
AT_ONCE = 3


def prepare(names: Iterable[str]) -> None:
    """Make sure of images, of what `internet` serves and of the simulated GPUs' driver.

    Args:
        names: Recipes of the machines that are wanted.

    Raises:
        LabError: A part could not be built.
    """
    wanted = {"gateway", "internet", *names}
    filled = internet.content_directory().exists()
    if not filled:
        wanted.update(internet.MADE_OF)
    driven = gpu.directory().exists()
    if not driven:
        wanted.add("gpu")
    missing = [name for name in sorted(wanted) if name not in RECIPES or not images.present(images.tag(name))]
    if not missing and filled and driven:
        return
    foundations, programs = needs(missing)
    if not filled:
        programs.add("registry")
    _at_once([*(partial(golang.program, name) for name in programs), *(partial(images.ensure, n) for n in foundations)])
    _at_once([partial(images.ensure, name) for name in missing])
    internet.content()
    gpu.driver_files()


def needs(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """What images stand on.

    Returns:
        Names of the root directories below them, and of the Go programs in them.
    """
    foundations: dict[str, None] = {}
    programs: set[str] = set()
    for name in names:
        recipe = RECIPES.get(name)
        if isinstance(recipe, Base):
            foundations[recipe.name] = None
        elif recipe is not None:
            copies: tuple[str, ...] = ()
            if isinstance(recipe, Layer):
                programs.update(recipe.programs)
                copies = recipe.copies
            below, more = needs([recipe.parent, *copies])
            foundations.update(dict.fromkeys(below))
            programs |= more
    return list(foundations), programs


def everything() -> None:
    """Build all that `make test` needs, in the order in which it does.

    Raises:
        LabError: A part could not be built.
    """
    prepare(MACHINE_IMAGES)
    hadoop.content()
    kubernetes.content(kubernetes.CURRENT)
    spark.distribution(spark.VERSION)
    for which in ("small", "built"):
        spark.content(which)


def clean() -> list[str]:
    """Remove images and artefacts that no recipe makes any more.

    Returns:
        What is gone.
    """
    current = {images.tag(name) for name in RECIPES}
    current_files = {images.archive(name) for name in MACHINE_IMAGES} | {internet.content_directory()}
    current_files |= {golang.directory(name) for name in golang.PROGRAMS} | {golang.toolchain_directory()}
    current_files |= {gpu.directory(), hadoop.directory(), *spark.files()}
    current_files |= {kubernetes.directory(release) for release in kubernetes.RELEASES}
    gone = images.remove_all_but(current)
    for entry in paths.artefacts().iterdir():
        if entry not in current_files:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            gone.append(str(entry))
    return sorted(gone)


def _at_once(jobs: list[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()
