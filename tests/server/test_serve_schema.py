"""Whatever the OpenAPI of ``sppnet serve`` allows, and what it does not, is answered as it says."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import positive_data_acceptance

from label_people import PORT
from serve_models import open_obedient
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, UploadLimits
from sppnet.server.workers import PoolLimits, WorkerPool

TOKEN = "a-token-of-some-letters"
HEADERS = {"Host": f"127.0.0.1:{PORT}", "Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def interface() -> Iterator[schemathesis.BaseSchema]:
    pool = WorkerPool(open_obedient, (), PoolLimits(workers=1, queue=64, megabytes=500))
    try:
        pool.start()
        app = build_serve_app(pool, Access(TOKEN), UploadLimits(), lambda: PORT)
        yield schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    finally:
        pool.close()


def check_operations(interface: schemathesis.BaseSchema, examples: int) -> int:
    """Ask so often for each page; how many pages there are."""
    operations = [each.ok() for each in interface.get_all_operations()]
    for operation in operations:

        @settings(max_examples=examples, deadline=None, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            # random bytes are no photo, although the schema has no word for that
            case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])

        ask()
    return len(operations)


def test_answers_are_those_that_are_described(interface) -> None:
    assert check_operations(interface, 10) == 5


@pytest.mark.slow
def test_many_answers_are_those_that_are_described(interface) -> None:
    assert check_operations(interface, 1000) == 5
