"""Three digit classifiers, from cheap to accurate under MPC, and the router that picks among them.

Every network takes images (N, 1, 8, 8) with values 0..1. Under MPC a network costs about the
elements it compares (one per ReLU unit, three per 2x2 max-pool window) and the rounds of the
layers that compare, one after the other (a 2x2 max-pool is two of them):

    network     compared elements                 layers that compare
    Router      8                                 1
    MLP         10                                1
    SmallCNN    256 + 192 = 448                   3
    LargeCNN    768 + 1536 + 1152 + 512 = 3968    5
"""

from torch import Tensor, nn

CLASSES = 10
PIXELS = 64


class MLP(nn.Module):
    """The cheap one: 10 hidden units on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, 10)
        self.output = nn.Linear(10, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.output(self.hidden(image.flatten(1)).relu())
        return logits


class SmallCNN(nn.Module):
    """The middle one: a convolution of 4 channels, max-pooled to 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_conv_bn_relu(1, 4), nn.MaxPool2d(2))  # (N, 4, 4, 4)
        self.output = nn.Linear(4 * 4 * 4, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.output(self.features(image).flatten(1))
        return logits


class LargeCNN(nn.Module):
    """The accurate one: three convolutions, max-pooled after two and averaged to 2x2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_bn_relu(1, 12),
            *_conv_bn_relu(12, 24),
            nn.MaxPool2d(2),  # (N, 24, 4, 4)
            *_conv_bn_relu(24, 32),
            nn.AdaptiveAvgPool2d(2),  # (N, 32, 2, 2)
        )
        self.output = nn.Linear(32 * 2 * 2, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.output(self.features(image).flatten(1))
        return logits


class Router(nn.Module):
    """One utility per model of the pool, in its order: mlp, small_cnn, large_cnn.

    A utility approximates the probability that the model is right about this image. It is the
    output of a linear layer, not of a sigmoid, and so may leave 0..1: `utility - lambda * cost`
    needs no more than that, and a sigmoid would cost rounds.
    """

    def __init__(self, models: int = 3) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, 8)
        self.output = nn.Linear(8, models)

    def forward(self, image: Tensor) -> Tensor:
        """Return utilities (N, models)."""
        utilities: Tensor = self.output(self.hidden(image.flatten(1)).relu())
        return utilities


def _conv_bn_relu(channels_in: int, channels_out: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(channels_out), nn.ReLU()
