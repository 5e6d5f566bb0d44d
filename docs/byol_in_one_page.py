"""BYOL (arXiv 2006.07733) in one page: `python docs/byol_in_one_page.py` learns from CIFAR-10.

To read, not to use: train_byol.py is faster, and can be stopped. It needs torch and torchvision.
"""

import copy
import math

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.transforms import v2

EPOCHS, BATCH, PEAK_LR, TAU0 = 200, 256, 0.03, 0.99
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def head(in_dim, hidden_dim, out_dim):
    """The projector and the predictor: (N, in_dim) -> (N, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.BatchNorm1d(hidden_dim),
                         nn.ReLU(), nn.Linear(hidden_dim, out_dim, bias=False))  # fmt: skip


class BYOL(nn.Module):
    """The online network (encoder, projector, predictor) and the target (encoder, projector)."""

    def __init__(self, hidden_dim=1024, projection_dim=256):
        super().__init__()
        self.encoder = torchvision.models.resnet18()
        self.encoder.fc = nn.Identity()
        self.projector = head(512, hidden_dim, projection_dim)
        self.predictor = head(projection_dim, hidden_dim, projection_dim)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, view1, view2):
        """The loss of two views (N, 3, H, W), in 0..8: each view predicts the other's target."""
        return self.term(view1, view2) + self.term(view2, view1)

    def term(self, view, other):
        """2 - 2 cos(prediction from the view, target's projection of the other one): 0..4."""
        prediction = self.predictor(self.projector(self.encoder(view)))
        with torch.no_grad():
            target = self.target_projector(self.target_encoder(other))
        return (2 - 2 * F.cosine_similarity(prediction, target)).mean()

    @torch.no_grad()
    def update_target(self, tau):
        """target = tau * target + (1 - tau) * online: parameters only."""
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        target = [*self.target_encoder.parameters(), *self.target_projector.parameters()]
        torch._foreach_lerp_(target, online, 1 - tau)


def view(solarize):
    """One random view; the second view is solarized now and then, the first one never."""
    return v2.Compose([
        v2.RandomResizedCrop(32, scale=(0.08, 1)), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.RandomSolarize(128, solarize),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    view1, view2 = view(solarize=0.0), view(solarize=0.2)
    two = lambda photo: (view1(photo), view2(photo))  # noqa: E731
    photos = torchvision.datasets.CIFAR10("data", download=True, transform=two)
    batches = torch.utils.data.DataLoader(photos, BATCH, shuffle=True, drop_last=True)
    model = BYOL().to(device).train()  # the target stays in training mode, too
    online = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(online, PEAK_LR, momentum=0.9, weight_decay=2e-3)
    total = EPOCHS * len(batches)
    for epoch in range(EPOCHS):
        for number, ((first, second), _label) in enumerate(batches):
            done = (1 + math.cos(math.pi * (epoch * len(batches) + number) / total)) / 2  # 1 to 0
            optimizer.param_groups[0]["lr"] = PEAK_LR * done
            loss = model(first.to(device), second.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update_target(tau=1 - (1 - TAU0) * done)
        print(f"epoch {epoch + 1}, loss {loss.item():.3f}")
        torch.save(model.encoder.state_dict(), "encoder.pt")


if __name__ == "__main__":
    main()
