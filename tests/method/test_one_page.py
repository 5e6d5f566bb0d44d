"""docs/byol_in_one_page.py is the same method as byol/method.py."""

import importlib.util

import pytest
import torch

from byol.encoder import Encoder
from byol.method import BYOL


@pytest.fixture(scope="module")
def page(root):
    path = root / "docs" / "byol_in_one_page.py"
    spec = importlib.util.spec_from_file_location("byol_in_one_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_in_project(name: str) -> str:
    """The project has a list of heads, one for each output."""
    for head in ("target_projector", "projector", "predictor"):
        if name.startswith(f"{head}."):
            return name.replace(head, f"{head}s.0", 1)
    return name


def test_it_has_the_loss_the_gradients_and_the_moving_average_of_the_project(page):
    torch.manual_seed(0)
    ours = BYOL(Encoder(), hidden_dim=32, projection_dim=16).double().train()
    theirs = page.BYOL(hidden_dim=32, projection_dim=16).double().train()
    state = ours.state_dict()
    theirs.load_state_dict({k: state[name_in_project(k)].clone() for k in theirs.state_dict()})
    views = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)

    losses, _ = ours.backward(*views, torch.ones(1))  # float32, as is ours
    loss = theirs(*views)
    loss.backward()
    torch.testing.assert_close(loss.detach().float(), losses[0])
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    found = {name_in_project(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)

    for model in (ours, theirs):
        for p in model.parameters():
            if p.grad is not None:
                p.data.sub_(0.1 * p.grad)
        model.update_target(0.9)
    parameters = dict(ours.named_parameters())  # running statistics come in another order
    for name, value in theirs.named_parameters():
        moved = parameters[name_in_project(name)]
        torch.testing.assert_close(value, moved, atol=1e-6, rtol=1e-4)


def test_it_is_one_page(root):
    assert len((root / "docs" / "byol_in_one_page.py").read_text().splitlines()) <= 90


def test_its_views_are_what_the_network_wants(page):
    photo = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    view = page.view(solarize=0.2)(page.v2.functional.to_pil_image(photo))
    assert view.shape == (3, 32, 32)
    assert view.dtype == torch.float32
