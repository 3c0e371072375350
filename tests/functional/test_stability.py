import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.stability import instability, queries_of_objects


def test_value_by_hand():
    """Three objects, two stages: the first stage moves one of them, the second two."""
    before = torch.tensor([[4, 0, 2], [4, 0, 2]])
    after = torch.tensor([[4, 1, 2], [0, 4, 2]])
    assert_close(instability(before, after), torch.tensor([1 / 3, 2 / 3]))


def test_zero_at_equality():
    found = torch.tensor([[3, -1], [1, 0]])
    assert_close(instability(found, found), torch.zeros(2))


def test_an_object_that_loses_its_query_has_changed():
    assert_close(instability(torch.tensor([[3]]), torch.tensor([[-1]])), torch.ones(1))


def test_no_objects():
    nothing = torch.zeros(3, 0, dtype=torch.long)
    assert_close(instability(nothing, nothing), torch.zeros(3))


def test_other_objects_are_refused():
    with pytest.raises(ValueError, match=r'\(1, 2\) and \(1, 3\) \(stages, objects\)'):
        instability(torch.zeros(1, 2), torch.zeros(1, 3))


def test_queries_of_objects_inverts_the_assignment():
    """Query 1 has object 0, query 3 object 2; object 1 has none; -2 takes no part."""
    assignment = torch.tensor([[-1, 0, -2, 2], [1, -1, 0, 2]])
    expected = torch.tensor([[1, -1, 3], [2, 0, 3]])
    assert_close(queries_of_objects(assignment, 3), expected)
    assert queries_of_objects(assignment.clamp(max=-1), 0).shape == (2, 0)
