"""Two copies into one target at once: both are done, or one fails clearly and can be run again."""

from pathlib import Path

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP, OTHER, Job, running
from tests.support.disks import LoopFs
from tests.support.product import records

FAILED = (4, 5, 6)


def _assert_unique(store: Path) -> None:
    for kind in ("images", "layers"):
        content = list(records(store, kind).values())
        names = [name for record in content for name in record.get("names") or []]
        assert len(names) == len(set(names))
    links = [link.readlink() for link in (store / "overlay/l").iterdir()]
    assert len(links) == len(set(links))


def _run_both(jobs: tuple[Job, Job], moment: str, directory: Path) -> list[Job]:
    """Start the second copy when the first one says something; those that failed."""
    first, second = jobs
    with running(first.argv, directory, first.env) as one:
        if moment:
            one.wait_for_line(moment)
        with running(second.argv, directory, second.env) as two:
            ended = [(job, copy, copy.wait()) for job, copy in ((first, one), (second, two))]
    for _, copy, code in ended:
        assert code in (0, *FAILED), copy.output
        assert "Traceback" not in copy.output, copy.output
        assert code == 0 or "error: " in copy.output
    return [job for job, _, code in ended if code]


@pytest.mark.parametrize("moment", ["", "preflight:", "copying"])
@pytest.mark.parametrize(
    ("engines", "names"),
    [
        (("direct", "direct"), ((APP, OTHER), (APP, OTHER))),
        (("direct", "direct"), ((APP,), (OTHER,))),
        (("direct", "skopeo"), ((APP, OTHER), (APP, OTHER))),
        (("skopeo", "direct"), ((OTHER,), (APP,))),
        (("skopeo", "skopeo"), ((APP,), (OTHER,))),
    ],
    ids=lambda value: "-".join(value) if isinstance(value[0], str) else str(len(value[0])),
)
def test_two_copies_at_once(
    jobs: Jobs,
    disk: LoopFs,
    engines: tuple[str, str],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    moment: str,
) -> None:
    physical = disk.mount / "target"
    first, second = (
        jobs(*bound, at=physical, engine=engine)
        for bound, engine in zip(names, engines, strict=True)
    )
    losers = _run_both((first, second), moment, jobs.directory)
    assert len(losers) < 2
    _assert_unique(first.store)
    for job in losers:
        job.run()
    for job in (first, second):
        job.verify()
        assert job.temporary() == []
    assert first.listed() == [APP, OTHER]
    _assert_unique(first.store)
