"""pytorch-CycleGAN-and-pix2pix in a process of its own, with its code on the path and none of ours.

    python peer.py PROJECT_DIR FOLDER SIZE CHANNELS [SIZE CHANNELS ...]

For each size FOLDER holds SIZE/pictures.npy and SIZE/exported/latest_net_G.pth. What the project makes of the pictures
with that file, in eval mode, is written to SIZE/exported.npy. A network of its own, with other
statistics than those of the start, is saved as SIZE/own/latest_net_G.pth, and what it makes of them to SIZE/own.npy.
FOLDER/layers.json has the names and shapes of its U-Nets of 6 to 10 levels.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

NUM_DOWNS = {128: "unet_128", 256: "unet_256"}


def open_model(folder, name, size, channels):
    """Its model as its test.py makes it."""
    from models.pix2pix_model import Pix2PixModel

    options = Namespace(
        isTrain=False, checkpoints_dir=str(folder / str(size)), name=name, device=torch.device("cpu"),
        preprocess="none", input_nc=3, output_nc=3, ngf=channels, netG=NUM_DOWNS[size], norm="batch",
        no_dropout=False, init_type="normal", init_gain=0.02, direction="BtoA", load_iter=0,
        epoch="latest", verbose=False,
    )  # fmt: skip
    return Pix2PixModel(options), options


def fakes(model, folder, size):
    """What the model makes of the pictures, as its `test.py --eval` does."""
    pictures = torch.from_numpy(np.load(folder / str(size) / "pictures.npy"))
    model.eval()
    model.set_input({"A": torch.zeros_like(pictures), "B": pictures, "A_paths": [], "B_paths": []})
    model.test()
    return model.fake_B.numpy()


def shake(network, size):
    """Weights of its own initialisation, then other statistics, gains and offsets of batch norm."""
    from models.networks import init_weights

    init_weights(network, "normal", 0.02)
    network.train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(0, 0.1)
        for _ in range(5):
            network(torch.rand(2, 3, size, size) * 2 - 1)


def main():
    project, folder, *numbers = sys.argv[1:]
    sys.path.insert(0, project)
    folder = Path(folder)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for size, channels in zip(map(int, numbers[::2]), map(int, numbers[1::2]), strict=True):
        model, options = open_model(folder, "exported", size, channels)
        model.setup(options)
        np.save(folder / str(size) / "exported.npy", fakes(model, folder, size))
        model, _ = open_model(folder, "own", size, channels)
        shake(model.netG, size)
        (folder / str(size) / "own").mkdir()
        model.save_networks("latest")
        np.save(folder / str(size) / "own.npy", fakes(model, folder, size))
    from models.networks import UnetGenerator

    with torch.device("meta"):
        layers = {
            2**levels: {
                name: list(tensor.shape) for name, tensor in UnetGenerator(3, 3, levels, 8).state_dict().items()
            }
            for levels in range(6, 11)
        }
    (folder / "layers.json").write_text(json.dumps(layers))


if __name__ == "__main__":
    main()
