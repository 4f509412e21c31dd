import pytest

from feature_store.vectors import single_threaded


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    single_threaded()
