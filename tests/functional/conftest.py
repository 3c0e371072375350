import pytest
import torch

from tests.functional.cases import Draw


@pytest.fixture
def draw() -> Draw:
    return Draw()


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are tiny; a second thread only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
