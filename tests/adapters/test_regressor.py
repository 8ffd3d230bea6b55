"""The regressor's shapes by the paper's rule, and that it can learn what it is for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from distill_cli.adapters.regressor import LARGEST_KERNEL, Regressor

sides = st.integers(1, 14)


@given(
    guided=st.tuples(st.integers(1, 5), sides, sides),
    hint=st.tuples(st.integers(1, 5), sides, sides),
    rectified=st.booleans(),
)
@example(guided=(2, 7, 10), hint=(3, 3, 2), rectified=True)
@example(guided=(2, 10, 7), hint=(3, 1, 1), rectified=False)  # a kernel of 10 is too large
@example(guided=(2, 9, 9), hint=(3, 1, 1), rectified=False)  # one of 9 is not
@example(guided=(2, 5, 8), hint=(3, 6, 4), rectified=False)  # smaller in one dimension only
@example(guided=(2, 1, 1), hint=(3, 7, 5), rectified=True)  # a vector for a map
def test_kernel_and_shape(
    guided: tuple[int, int, int], hint: tuple[int, int, int], rectified: bool
) -> None:
    made = Regressor(guided, hint, rectified=rectified)
    kernel = (guided[1] - hint[1] + 1, guided[2] - hint[2] + 1)
    fits = min(kernel) >= 1 and max(kernel) <= LARGEST_KERNEL
    assert made.resizes == (not fits)
    assert made.conv.weight.shape == (hint[0], guided[0], *(kernel if fits else (1, 1)))
    assert made.conv.padding == (0, 0)
    assert made.conv.stride == (1, 1)
    feat_BCHW = torch.randn(3, *guided, generator=torch.Generator().manual_seed(0))
    out_BCHW = made(feat_BCHW)
    assert out_BCHW.shape == (3, *hint)
    assert bool((out_BCHW >= 0).all()) or not rectified
    if fits:
        plain_BCHW = nn.functional.conv2d(feat_BCHW, made.conv.weight, made.conv.bias)
        assert torch.equal(out_BCHW, plain_BCHW.relu() if rectified else plain_BCHW)
        assert "resized" not in made.description
    else:
        assert made.description == f"resized to {hint[1]}×{hint[2]}, 1×1 convolution"


def test_the_description_names_the_kernel() -> None:
    assert Regressor((2, 8, 9), (3, 4, 6), rectified=False).description == "5×4 convolution"


def test_only_a_rectified_hint_is_rectified() -> None:
    torch.manual_seed(0)
    feat_BCHW = torch.randn(8, 4, 6, 6)
    plain = Regressor((4, 6, 6), (5, 4, 4), rectified=False)
    assert plain(feat_BCHW).min() < 0
    rectified = Regressor((4, 6, 6), (5, 4, 4), rectified=True)
    rectified.load_state_dict(plain.state_dict())
    assert torch.equal(rectified(feat_BCHW), plain(feat_BCHW).relu())


@pytest.mark.parametrize("batch", [1, 4])
def test_a_sample_does_not_depend_on_its_batch(batch: int) -> None:
    torch.manual_seed(0)
    made = Regressor((3, 4, 4), (2, 6, 5), rectified=False)
    feat_BCHW = torch.randn(batch, 3, 4, 4)
    for row in range(batch):
        alone = made(feat_BCHW[row : row + 1])[0]
        assert torch.allclose(made(feat_BCHW)[row], alone, rtol=0, atol=1e-6)


def test_its_weights_come_from_the_seed() -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(Regressor((3, 4, 4), (2, 3, 3), rectified=True))
    one, two, other = made
    assert torch.equal(one.conv.weight, two.conv.weight)
    assert not torch.equal(one.conv.weight, other.conv.weight)
    assert not one.conv.bias.any()


@pytest.mark.parametrize(
    ("guided", "hint"),
    [((3, 6, 5), (4, 4, 4)), ((3, 4, 4), (5, 4, 4)), ((3, 4, 4), (2, 8, 8))],
    ids=["kernel", "same", "resized"],
)
def test_it_fits_what_is_linear_exactly(
    guided: tuple[int, int, int], hint: tuple[int, int, int]
) -> None:
    """The closed form of least squares, loaded into it, has no residual: nothing else is in it."""
    torch.manual_seed(0)
    truth = Regressor(guided, hint, rectified=False).double()
    nn.init.normal_(truth.conv.bias)
    feat_BCHW = torch.randn(40, *guided, dtype=torch.float64)
    with torch.no_grad():
        target_BCHW = truth(feat_BCHW)
        made = Regressor(guided, hint, rectified=False).double()
        seen_BCHW = feat_BCHW
        if made.resizes:
            seen_BCHW = nn.functional.interpolate(
                feat_BCHW, hint[1:], mode="bilinear", antialias=True
            )
        columns_RD = nn.functional.unfold(seen_BCHW, made.kernel).transpose(1, 2).flatten(0, 1)
        columns_RD = torch.cat([columns_RD, torch.ones(len(columns_RD), 1).double()], dim=1)
        wanted_RC = target_BCHW.flatten(2).transpose(1, 2).flatten(0, 1)
        found_DC = torch.linalg.lstsq(columns_RD, wanted_RC).solution
        made.conv.weight.copy_(found_DC[:-1].T.reshape(made.conv.weight.shape))
        made.conv.bias.copy_(found_DC[-1])
        assert (made(feat_BCHW) - target_BCHW).abs().max() < 1e-9


def test_descent_reaches_it() -> None:
    torch.manual_seed(0)
    truth, made = (Regressor((3, 6, 6), (4, 4, 4), rectified=True) for _ in range(2))
    feat_BCHW = torch.randn(64, 3, 6, 6)
    target_BCHW = truth(feat_BCHW).detach()
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (made(feat_BCHW) - target_BCHW).square().mean()
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss)
    assert loss().item() < 1e-4 * before


@pytest.mark.parametrize("rectified", [False, True])
def test_normalised_it_has_batch_norm_before_its_rectifier(rectified: bool) -> None:
    torch.manual_seed(0)
    feat_BCHW = torch.randn(6, 3, 5, 5, dtype=torch.float64) * 4 + 2
    made = Regressor((3, 5, 5), (4, 3, 3), rectified=rectified, normalised=True).double()
    assert made.description == "3×3 convolution, batch norm"
    assert made.conv.bias is None
    nn.init.uniform_(made.norm.weight, 0.5, 2)
    nn.init.normal_(made.norm.bias)
    predicted_BCHW = nn.functional.conv2d(feat_BCHW, made.conv.weight)
    mean_1C11 = predicted_BCHW.mean(dim=(0, 2, 3), keepdim=True)
    variance_1C11 = (predicted_BCHW - mean_1C11).square().mean(dim=(0, 2, 3), keepdim=True)
    expected_BCHW = (predicted_BCHW - mean_1C11) / (variance_1C11 + 1e-5).sqrt()
    expected_BCHW = expected_BCHW * made.norm.weight[:, None, None] + made.norm.bias[:, None, None]
    expected_BCHW = expected_BCHW.relu() if rectified else expected_BCHW
    assert torch.allclose(made(feat_BCHW), expected_BCHW, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalised", [False, True])
def test_its_student_gets_a_share_of_the_gradient(normalised: bool) -> None:
    seen, gradients = [], []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        feat_BCHW = torch.randn(6, 3, 4, 4, dtype=torch.float64).requires_grad_()
        made = Regressor(
            (3, 4, 4), (2, 6, 6), rectified=False, normalised=normalised, gradient_scale=scale
        ).double()
        seen.append(made(feat_BCHW))
        seen[-1].square().sum().backward()
        gradients.append((feat_BCHW.grad, made.conv.weight.grad))
    assert torch.equal(*seen)
    (whole, own), (share, also_own) = gradients
    assert whole.abs().max() > 1e-6
    assert torch.allclose(share, 0.01 * whole, rtol=1e-9, atol=1e-15)
    assert torch.equal(own, also_own)
    assert "1 % of its gradient to the student" in made.description
