"""Inception and DINOv2 are the same functions as in independent packages, block by block, in double precision.

Needs torch, torchvision, torch-fidelity, pytorch-fid, timm and dinov2, none of which belong to the project: where
they are missing these tests are skipped, and test_golden.py compares with numbers that were made by them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_networks import (
    INCEPTION_BLOCKS,
    NARROW_DINO,
    SMALL_DINO,
    dinov2_of_the_authors,
    dinov2_of_timm,
    fidelity_inception,
    hooked,
    pytorch_fid_inception,
    random_weights,
    to_array,
)

from diffusion.data import DataSpec, to_float
from diffusion.evaluation.features import dinov2, inception
from diffusion.evaluation.features.published import Architecture, params_of
from diffusion.networks.dinov2 import DINOv2, dinov2_input, interpolation
from diffusion.networks.inception import InceptionV3, inception_input
from diffusion.networks.resize import resize_bilinear_tf1

torch = pytest.importorskip("torch", reason="torch is not part of the project")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def close(ours, theirs, tolerance, what=""):
    """Compare relative to the largest value, as the errors of sums are."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, f"{what}: {error:.2e}"


@pytest.fixture(scope="module")
def weights():
    return random_weights(inception.ARCHITECTURE.wanted)


def ours(weights, x, dtype):
    """Run our Inception; return what each block gave, and the outputs."""
    module = InceptionV3(dtype)
    params = jax.tree.map(
        lambda v: jnp.asarray(v, dtype), params_of(weights, inception.ARCHITECTURE.abstract)
    )
    run = jax.jit(
        lambda p, x: module.apply(
            {"params": p}, x, capture_intermediates=True, mutable=["intermediates"]
        )
    )
    outputs, kept = run(params, jnp.asarray(x, dtype))
    return {name: kept["intermediates"][name]["__call__"][0] for name in INCEPTION_BLOCKS}, outputs


def test_inception_block_by_block_in_double_precision(weights, x64):
    pytest.importorskip("pytorch_fid", reason="pytorch-fid is not part of the project")
    x = np.random.default_rng(1).uniform(-1, 1, (2, 139, 139, 3))  # the last maps are 3 x 3
    net = pytorch_fid_inception(weights)
    theirs, (pool,) = hooked(net.load_blocks, lambda: net(torch.tensor(x).permute(0, 3, 1, 2)))
    found, outputs = ours(weights, x, "float64")
    for name in INCEPTION_BLOCKS:
        close(found[name], theirs[name], 1e-10, name)
    close(outputs.pool, to_array(pool)[:, 0, 0], 1e-10, "pool")
    close(outputs.spatial, theirs["Mixed_6d"][..., :7], 1e-10, "spatial")


@pytest.mark.parametrize(
    ("dtype", "shape", "tolerance"), [("float64", (299, 299), 1e-6), ("float32", (32, 40), 1e-4)]
)
def test_inception_from_levels_to_logits(weights, x64, dtype, shape, tolerance):
    """The whole way; torch-fidelity rounds its answers to float32, hence 1e-6."""
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not part of the project")
    levels = np.random.default_rng(2).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    net = fidelity_inception(weights, dtype)
    blocks = {name: getattr(net, name) for name in INCEPTION_BLOCKS}
    x = torch.tensor(levels).permute(0, 3, 1, 2)
    theirs, (pool, unbiased, logits) = hooked(blocks, lambda: net(x))
    found, outputs = ours(weights, inception_input(jnp.asarray(levels, dtype)), dtype)
    for name in INCEPTION_BLOCKS:
        close(found[name], theirs[name], 1e-10 if dtype == "float64" else 1e-4, name)
    close(outputs.pool, pool, tolerance, "pool")
    close(outputs.logits_unbiased, unbiased, tolerance, "unbiased logits")
    close(outputs.logits, logits, tolerance, "logits")


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (8, 8), (299, 299), (300, 150), (512, 640)])
def test_resizing_is_that_of_tensorflow_1(shape, x64):
    package = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    levels = np.random.default_rng(3).integers(0, 256, (1, *shape, 3)).astype(np.float32)
    theirs = package.interpolate_bilinear_2d_like_tensorflow1x(
        torch.tensor(levels).permute(0, 3, 1, 2), size=(299, 299), align_corners=False
    )
    close(resize_bilinear_tf1(jnp.asarray(levels), 299), to_array(theirs), 1e-6)


def our_dino(weights, x, dtype="float64", **fields):
    """Run our DINOv2; return what each block gave, and the outputs."""
    module = DINOv2(**fields, dtype=dtype)
    made = Architecture(title="", module=DINOv2(**fields), size=14, passed="")
    params = jax.tree.map(
        lambda v: jnp.asarray(v, dtype), params_of(weights(made.wanted), made.abstract)
    )
    outputs, kept = module.apply(
        {"params": params},
        jnp.asarray(x, dtype),
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    kept = kept["intermediates"]
    names = [f"blocks.{i}" for i in range(module.depth)]
    return {name: kept[name]["__call__"][0] for name in names}, outputs


@pytest.mark.parametrize("made", [dinov2_of_the_authors, dinov2_of_timm])
def test_dinov2_block_by_block_in_double_precision(made, x64):
    package = "dinov2" if made is dinov2_of_the_authors else "timm"
    pytest.importorskip(package, reason=f"{package} is not part of the project")
    x = np.random.default_rng(4).normal(size=(2, 70, 70, 3))
    found, outputs = our_dino(random_weights, x, **SMALL_DINO)
    fields = Architecture(title="", module=DINOv2(**SMALL_DINO), size=14, passed="").wanted
    net = made(random_weights(fields), **SMALL_DINO)
    blocks = {f"blocks.{i}": block for i, block in enumerate(net.blocks)}
    theirs, token = hooked(blocks, lambda: net(torch.tensor(x).permute(0, 3, 1, 2)))
    for name in blocks:
        close(found[name], theirs[name], 1e-10, name)
    close(outputs.class_token, token.detach(), 1e-10, "class token")


def test_dinov2_at_224_pixels_with_the_positions_of_518(x64):
    """Their positions are interpolated in float32 whatever the weights are, hence 1e-5."""
    pytest.importorskip("dinov2", reason="dinov2 is not part of the project")
    levels = np.random.default_rng(5).integers(0, 256, (1, 224, 224, 3)).astype(np.float64)
    x = dinov2_input(jnp.asarray(levels))
    _, outputs = our_dino(random_weights, x, **NARROW_DINO)
    fields = Architecture(title="", module=DINOv2(**NARROW_DINO), size=14, passed="").wanted
    net = dinov2_of_the_authors(random_weights(fields), **NARROW_DINO)
    theirs = net.forward_features(torch.tensor(np.array(x)).permute(0, 3, 1, 2))
    close(outputs.class_token, theirs["x_norm_clstoken"].detach(), 1e-5)
    close(outputs.patch_tokens, theirs["x_norm_patchtokens"].detach(), 1e-5)


@pytest.mark.parametrize("new", [2, 16, 36, 40])
def test_positions_are_interpolated_as_torch_does(new):
    grid = np.random.default_rng(6).normal(size=(37, 37))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(grid)[None, None], scale_factor=((new + 0.1) / 37,) * 2, mode="bicubic"
    )[0, 0]
    matrix = interpolation(37, new)
    close(matrix @ grid @ matrix.T, theirs, 1e-12)


def test_the_names_are_those_of_the_packages():
    """The published files have the names of these packages' networks."""
    package = pytest.importorskip("torchvision", reason="torchvision is not part of the project")
    timm = pytest.importorskip("timm", reason="timm is not part of the project")
    net = package.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    state = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    wanted = inception.ARCHITECTURE.wanted
    assert {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")} == wanted
    for size, name in (("small", "vit_small"), ("base", "vit_base"), ("large", "vit_large")):
        with torch.device("meta"):
            net = timm.create_model(f"{name}_patch14_dinov2")
        state = {k: tuple(v.shape) for k, v in net.state_dict().items()}
        assert state == dinov2.architecture(size).wanted


@pytest.mark.parametrize("new_format", [True, False])
def test_from_a_published_file_to_features(weights, new_format, tmp_path):
    """One .pth, read by torch-fidelity as it is and by us after conversion: the same features and scores."""
    package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from diffusion.cli.convert_features import convert

    state = {k: torch.tensor(v, dtype=torch.float32) for k, v in weights.items()}
    path, out = tmp_path / "weights.pth", tmp_path / "weights.safetensors"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    assert "472 arrays" in convert(path, out)
    levels = np.random.default_rng(7).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    net = package.FeatureExtractorInceptionV3(
        "random", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    pool, logits = net(torch.tensor(levels).permute(0, 3, 1, 2))
    spec = DataSpec(shape=(32, 32, 3))
    extractor = inception.Inception(weights=str(out), block=2).open(spec)
    assert extractor.name == "inception_of_other_weights"
    close(extractor(to_float(levels)), pool, 1e-4, "features")
    theirs = torch.log_softmax(logits.double(), dim=1)
    close(extractor.log_probs(to_float(levels)), theirs, 1e-4, "log-probabilities")
