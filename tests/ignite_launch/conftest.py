"""Two hosts on one machine."""

from collections.abc import Iterator

import pytest

from tests.ignite_launch.hosts import Host, NoHostsError, make_hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other and nothing else."""
    try:
        with make_hosts() as two:
            yield two
    except NoHostsError as error:
        pytest.skip(str(error))
