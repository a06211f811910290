"""Values that are not zero are counted by whatever is fastest, and rightly."""

import pytest
import torch

from kick.model import counting


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int8])
def test_zeros_of_either_sign_are_zeros_and_nothing_else_is(dtype):
    values = torch.tensor([[0.0, -0.0, 1.0, -2.0], [3.0, 0.0, 1.0, 1.0]]).to(dtype)
    assert (counting.nonzero(values), counting.zeros(values)) == (5, 3)
    assert counting.nonzero(values.t()) == 5
    assert counting.nonzero(values[:, 1:3]) == 2


def test_no_number_and_the_smallest_numbers_are_not_zero():
    values = torch.tensor([float("nan"), float("inf"), 1e-45, 0.0], requires_grad=True)
    assert (counting.nonzero(values), counting.zeros(values)) == (3, 1)
