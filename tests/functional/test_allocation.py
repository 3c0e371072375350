import torch

from tests.allocation import largest_storage


def test_records_forward_and_backward():
    x = torch.ones(10, requires_grad=True)
    assert largest_storage(lambda: x.sum()) == 40
    assert largest_storage(lambda: (x[:, None] * x).sum()) == 400
    assert largest_storage(lambda: x.expand(30, 10).sum()) == 40
