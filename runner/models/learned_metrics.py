"""FID, KID and LPIPS, which are defined by published weights. The user has to bring the files.

A file must have the SHA-256 of the published one, and is read without executing anything in it. The packages with the
networks would download or unpickle it.
"""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan.data.patches import Patches
from gan.evaluation.evaluate import MetricFunction, generate
from gan.evaluation.metrics import MODES, Metric
from gan.networks.generator import Generator
from runner.errors import DataError

# The publishers put the first eight digits of a file's SHA-256 at the end of its name, as torch.hub expects.
_INCEPTION = {"6726825d": "weights-inception-2015-12-05-6726825d.pth"}
BACKBONES = {
    "7be5be79": "alexnet-owt-7be5be79.pth",
    "397923af": "vgg16-397923af.pth",
    "b8a52dc0": "squeezenet1_1-b8a52dc0.pth",
}
_NETS = {"7be5be79": "alex", "397923af": "vgg", "b8a52dc0": "squeeze"}
_EXTRA = "pip install 'pix2pix-runner[metrics]'"
# The layer that FID is defined on: Inception's pooled features, before its classifier.
_NUM_FEATURES = 2048
# The defaults of torchmetrics.
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000
_SEED = 0

LPIPS = Metric(
    "lpips",
    "LPIPS",
    "distance of a network's features, patch by patch",
    higher_is_better=False,
    favours_blur=False,
)
FID = Metric(
    "fid",
    "FID",
    "distance of the distributions of a network's features",
    higher_is_better=False,
    favours_blur=False,
)
KID = Metric(
    "kid",
    "KID",
    "kernel distance of the distributions of a network's features",
    higher_is_better=False,
    favours_blur=False,
)


def read_weights(path: str | Path, option: str, published: Mapping[str, str]) -> tuple[str, dict[str, Tensor]]:
    """The first eight digits of a published file's SHA-256, and its tensors.

    Args:
        option: the command's option with the path, for the error.
        published: the names of the files that may be given, under the first eight digits of their SHA-256.

    Raises:
        DataError: the file can't be read, is none of the published ones, or holds more than tensors.
    """
    names = " or ".join(published.values())
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{option} is {str(path)!r}: it can't be read ({error.strerror}); give {names}") from error

    digest = hashlib.sha256(content).hexdigest()
    if digest[:8] not in published:
        raise DataError(
            f"{option} is {str(path)!r}: its SHA-256 begins with {digest[:8]}, so it is not {names}, which has "
            "those digits in its name. Download it again from its publisher."
        )

    try:
        # weights_only: torch refuses pickled objects other than tensors and plain containers.
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{option} is {str(path)!r}: it holds more than tensors, or is damaged ({error})") from error
    return digest[:8], state


def missing_extra(option: str, error: ImportError) -> DataError:
    """The error for packages that are not installed."""
    return DataError(f"{option} needs packages that are not installed ({error.name}): {_EXTRA}")


def lpips_metric(path: str | Path, device: torch.device) -> MetricFunction:
    """LPIPS (Zhang et al. 2018) with the network whose weights are in the file: (N,), 0 for equal pictures.

    Raises:
        DataError: the file can't be used, or the extra is not installed.
    """
    option = "--lpips-weights"
    digits, state = read_weights(path, option, BACKBONES)
    try:
        network = lpips_network(_NETS[digits], state).to(device)
    except ImportError as error:
        raise missing_extra(option, error) from error

    def lpips(generated: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            return network(generated, target).flatten()

    return lpips


def lpips_network(net: str, backbone: Mapping[str, Tensor]) -> nn.Module:
    """The network of torchmetrics, with its linear layers, on a backbone of torchvision that it does not download."""
    from torchmetrics.functional.image.lpips import _LPIPS

    # Built with a random backbone, which is then replaced: it would download the published one.
    network: Any = _LPIPS(net=net, pnet_rand=True)
    names = network.net.state_dict()
    # torchmetrics names the layers by slices (`slice1.0.weight`), torchvision by one list (`features.0.weight`).
    network.net.load_state_dict({name: backbone[re.sub(r"^slices?\.?\d+", "features", name)] for name in names})
    whole: nn.Module = network.eval()
    return whole


def inception_features(path: str | Path, device: torch.device) -> nn.Module:
    """The Inception network of FID and KID: (N, 3, H, W) uint8 to ((N, 2048),).

    Raises:
        DataError: the file can't be used, or the extra is not installed.
    """
    option = "--inception-weights"
    _, state = read_weights(path, option, _INCEPTION)
    try:
        return _inception_network(state).to(device)
    except ImportError as error:
        raise missing_extra(option, error) from error


def _inception_network(state: Mapping[str, Tensor]) -> nn.Module:
    """The network of torch-fidelity. It unpickles its file, so it gets one that is written here, with tensors only."""
    # Needed after minutes of work only: where it is missing, that is reported now.
    import torchmetrics.image.fid  # noqa: F401
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    harmless = io.BytesIO()
    torch.save(dict(state), harmless)
    harmless.seek(0)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [str(_NUM_FEATURES)], feature_extractor_weights_path=harmless
    )
    return network.eval()


@torch.no_grad()
def set_distances(
    network: nn.Module, generator: Generator, patches: Patches, device: torch.device, on_picture: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """FID and KID between all generated patches and all targets, in each mode.

    Args:
        on_picture: called after each patch of each mode.
    """
    distances = {}
    for mode in MODES:
        features: tuple[list[Tensor], list[Tensor]] = ([], [])
        for generated, _, target in generate(generator, patches, range(len(patches)), mode, device):
            for column, picture in zip(features, (generated, target), strict=True):
                # The network returns a tuple with one tensor for each layer that was asked for: here it is one.
                column.append(network(_to_bytes(picture))[0].cpu())
            for _ in range(len(generated)):
                on_picture()
        distances[mode] = feature_distances(*(torch.cat(column) for column in features))
    return distances


def _to_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8, rounded as when a picture is saved."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def feature_distances(generated: Tensor, target: Tensor) -> dict[str, float]:
    """FID, and the mean of KID over subsets, from (n, d) features; the subsets are drawn from a fixed seed."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    # Both metrics insist on a network: this one returns the features that it gets.
    as_they_are: Any = nn.Identity()
    # Without this attribute the metric would run the network on a random picture to learn the number.
    as_they_are.num_features = generated.shape[1]
    fid = FrechetInceptionDistance(feature=as_they_are)
    # KID raises an error where a subset is larger than the set.
    subset_size = min(_KID_SUBSET_SIZE, len(generated))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that it keeps all features, which are in memory anyway
        kid = KernelInceptionDistance(feature=as_they_are, subsets=_KID_SUBSETS, subset_size=subset_size)

    # KID draws its subsets from torch's global generator. Its state is the same again after the block.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for metric in (fid, kid):
            metric.update(target, real=True)
            metric.update(generated, real=False)
        return {FID.key: float(fid.compute()), KID.key: float(kid.compute()[0])}
