"""Features of a classifier that is trained on the data set itself.

A small convolutional network learns the labels of the training split, in seconds for digits and about a minute for
60,000 images of 28 x 28 on two cores. Its last hidden layer gives the features, its output log-probabilities
of the classes. It is stored in the data folder under the digest of its training data, with its accuracy on the
held-out data, which is on the card of every number as a measure of the quality of the features. Such numbers rank
runs on this data set and are not comparable with any others.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from diffusion.data import Dataset, DataSpec, data_root
from diffusion.data.classes import labels_of
from diffusion.data.storage import LOG
from diffusion.evaluation.features.base import Extractor, Features, in_blocks
from diffusion.evaluation.features.convolution import (
    BLOCK,
    convolve,
    fixed_normal,
    require_images,
)
from diffusion.numerics import require
from diffusion.registry import build, register
from diffusion.runtime.digests import digest_of_json
from diffusion.runtime.files import DAMAGE, write_atomically
from diffusion.runtime.reading import parse_json
from diffusion.runtime.tensors import read_header

VERSION = 1
DIM = 64  # features, the width of the last hidden layer
WIDTHS = (32, 64)  # channels of the first layer, and of all others
BATCH, RATE = 128, 2e-3
PASSES, LEAST, MOST = 20, 150, 600  # epochs, and bounds of the resulting number of steps
_SMALLEST = 8  # feature maps are halved twice, and then until they are no larger than this

Params = dict[str, Any]


def shapes_of(spec: DataSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights by name."""
    height, width, channels = spec.shape
    first, inner = WIDTHS
    found: dict[str, tuple[int, ...]] = {
        "conv_0": (3, 3, channels, first),
        "conv_0_bias": (first,),
    }
    layer, inputs = 0, first
    while layer < 2 or max(height, width) > _SMALLEST:
        layer += 1
        found[f"conv_{layer}"], found[f"conv_{layer}_bias"] = (3, 3, inputs, inner), (inner,)
        height, width, inputs = -(-height // 2), -(-width // 2), inner
    found["hidden"], found["hidden_bias"] = (height * width * inner, DIM), (DIM,)
    found["head"], found["head_bias"] = (DIM, int(_classes(spec))), (int(_classes(spec)),)
    return found


def _classes(spec: DataSpec) -> int:
    classes = spec.num_classes
    require(
        isinstance(classes, int) and classes > 1,
        f"the features classifier need one label per example; got num_classes={classes}. Use random_conv or pixels.",
    )
    assert isinstance(classes, int)
    return classes


def init(spec: DataSpec) -> Params:
    """Return initial weights, normal with variance 2 / fan-in; biases are 0."""
    params = {}
    for name, shape in shapes_of(spec).items():
        scale = 0.0 if name.endswith("_bias") else np.sqrt(2 / np.prod(shape[:-1]))
        params[name] = np.float32(scale) * fixed_normal(f"classifier/{name}", shape)
    return params


@jax.jit
def hidden(params: Params, x: Any) -> Any:
    """Return the features (n, DIM) of images."""
    h = jax.nn.relu(convolve(x, params["conv_0"]) + params["conv_0_bias"])
    layer = 1
    while f"conv_{layer}" in params:
        h = jax.nn.relu(convolve(h, params[f"conv_{layer}"], 2) + params[f"conv_{layer}_bias"])
        layer += 1
    return jax.nn.relu(h.reshape(len(h), -1) @ params["hidden"] + params["hidden_bias"])


def logits(params: Params, x: Any) -> Any:
    """Return the scores (n, classes) of images."""
    return hidden(params, x) @ params["head"] + params["head_bias"]


@jax.jit
def _log_probs(params: Params, x: Any) -> Any:
    return jax.nn.log_softmax(logits(params, x))


def class_log_probs(params: Params, x: np.ndarray) -> np.ndarray:
    """Return log p(class | x) in nats, in blocks of one size."""
    return in_blocks(functools.partial(_log_probs, params), x, BLOCK, len(params["head_bias"]))


def steps_for(size: int) -> int:
    """Return the number of training steps for a number of examples."""
    return min(MOST, max(LEAST, PASSES * size // BATCH))


def fit(train: Dataset, num_steps: int) -> Params:
    """Train a classifier; the result depends only on the data set and the number of steps."""
    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, num_steps))
    labels = labels_of(train)
    whole = labels is None or bool((labels >= 0).all())

    def loss(params: Params, x: Any, label: Any) -> Any:
        scores = logits(params, x)
        if whole:
            return optax.softmax_cross_entropy_with_integer_labels(scores, label).mean()
        known = label >= 0  # -1 is an unknown label
        each = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(label, 0))
        return (known * each).sum() / jnp.maximum(known.sum(), 1)

    @jax.jit
    def step(params: Params, state: Any, x: Any, label: Any) -> tuple[Params, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, x, label), state)
        return optax.apply_updates(params, updates), state  # pyright: ignore[reportReturnType]

    params = init(train.spec)
    state = optimizer.init(params)
    for i in range(num_steps):
        batch = train.batch(i, BATCH, seed=0)
        params, state = step(params, state, batch["data"], batch["cond"]["label"])
    return {name: np.asarray(value) for name, value in params.items()}


def accuracy(params: Params, dataset: Dataset, limit: int = 10_000) -> float:
    """Return the fraction of correct predictions among known labels, over at most `limit` examples."""
    size, right, known = min(dataset.spec.size or limit, limit), 0, 0
    for start in range(0, size, 1000):
        batch = dataset.examples(start, min(1000, size - start))
        found = class_log_probs(params, batch["data"]).argmax(axis=1)
        right += int((found == batch["cond"]["label"]).sum())
        known += int((batch["cond"]["label"] >= 0).sum())
    return right / max(known, 1)


def digest_of(params: Params) -> str:
    """Return the SHA-256 of the weights and of the definition of the network."""
    found = hashlib.sha256(f"classifier {VERSION}".encode())
    for name in sorted(params):
        found.update(f"{name} {params[name].shape};".encode())
        found.update(np.ascontiguousarray(params[name], np.float32).tobytes())
    return found.hexdigest()


@final
class ClassifierExtractor(Extractor):
    """The last hidden layer of a classifier, and its log-probabilities."""

    version = VERSION

    def __init__(self, spec: DataSpec, params: Params, dataset: str, about: dict[str, Any]):
        self.spec, self.dim, self.name = spec, DIM, f"classifier[{dataset}]"
        self.sha256 = digest_of(params)
        self.about = about
        self._params = jax.tree.map(jnp.asarray, params)

    @property
    def card(self) -> dict[str, Any]:
        """Return the card entry, with the accuracy of the classifier and its training data."""
        return {**super().card, **self.about}

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Run the network in blocks of equal size."""
        return in_blocks(functools.partial(hidden, self._params), x, BLOCK, DIM)

    def log_probs(self, x: Shaped[np.ndarray, " n *data"]) -> Float[np.ndarray, "n classes"] | None:
        """Return log p(class | x) in nats."""
        return class_log_probs(self._params, self.checked(x))


@register("features", "classifier")
@final
@dataclass(frozen=True, kw_only=True)
class Classifier(Features):
    """Features of a small network that is trained on the labels of a data set, once, and stored.

    Args:
        dataset: name of the data set to train on; "" for the data set of the evaluation.
    """

    dataset: str = ""

    def open(self, spec: DataSpec, data_dir: str | None = None) -> Extractor:
        """Return the extractor of the named data set's classifier; see `Features.open`."""
        require(
            self.dataset,
            "name a data set for the features classifier: dict(name='classifier', dataset='digits'), or `open_for`.",
        )
        folder = {} if data_dir is None else {"data_dir": data_dir}
        found = self.open_for(build("dataset", self.dataset, **folder), data_dir)
        require(
            tuple(found.spec.shape) == tuple(spec.shape),
            f"the classifier of {self.dataset} takes examples of shape {found.spec.shape}; these have {spec.shape}.",
        )
        return found

    def open_for(self, train: Dataset, data_dir: str | None = None) -> Extractor:
        """Return the extractor of a data set's classifier, trained now or earlier.

        Raises:
            ValueError: the examples are not images, or do not have one label each.
        """
        from diffusion.evaluation import reference

        if self.dataset and self.dataset != reference.name_of(train):
            return self.open(train.spec, data_dir)
        spec = train.spec
        require_images(spec, "classifier")
        _classes(spec)
        require(spec.size, "the features classifier need a data set that ends, with examples.")
        content, name = reference.content_of(train), reference.name_of(train)
        made_of = {"trained_on": content.sha256, "count": content.count, "recipe": _recipe()}
        path = data_root(data_dir) / "features" / f"classifier-{name}-{_key(made_of)}.safetensors"
        params, about = kept(path, spec, made_of, lambda: _made(train, name))
        return ClassifierExtractor(spec, params, name, about)


def _recipe() -> str:
    return f"version {VERSION}, 3 x 3 within a frame of zeros, {WIDTHS}, {DIM}, {PASSES, LEAST, MOST} x {BATCH}, {RATE}"


def _key(made_of: dict[str, Any]) -> str:
    return digest_of_json(made_of)[:16]


def _made(train: Dataset, name: str) -> tuple[Params, dict[str, Any]]:
    """Train a classifier, and measure its accuracy on held-out data."""
    LOG.info("training a classifier on %s for its features (once)", name)
    size = train.spec.size
    assert size is not None
    params, held_out = fit(train, steps_for(size)), train.held_out()
    apart = held_out is not train
    on = getattr(held_out, "split", "held-out data") if apart else "the training data itself"
    about = {"accuracy": accuracy(params, held_out), "accuracy_on": str(on), "trained_on": name}
    return params, about


def kept(
    path: Path,
    spec: DataSpec,
    made_of: dict[str, Any],
    make: Callable[[], tuple[Params, dict[str, Any]]],
) -> tuple[Params, dict[str, Any]]:
    """Return weights from a file if it is intact and has this content; otherwise train them and write the file."""
    try:
        return read(path, spec, made_of)
    except FileNotFoundError:
        pass
    except ValueError as error:
        LOG.warning("%s: trained again", error)
    except OSError as error:  # the file may be intact: train, but do not overwrite it
        LOG.warning("the classifier is trained again: cannot read %s (%s)", path, error.strerror)
        return make()
    from safetensors.numpy import save

    params, about = make()
    card = {"made_of": made_of, "about": about, "sha256": digest_of(params)}
    try:
        write_atomically(path, save(params, metadata={"card": json.dumps(card)}))
    except OSError as error:
        LOG.warning("the classifier is not kept: %s (%s)", path, error.strerror or error)
    return params, about


def read(path: Path, spec: DataSpec, made_of: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    """Read a classifier, and check its digest, its shapes and the description of its training.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds another classifier.
    """
    from safetensors import SafetensorError, safe_open

    try:
        read_header(path)  # checks stated sizes before memory is allocated
        with safe_open(path, framework="numpy") as file:
            card = parse_json((file.metadata() or {})["card"].encode(), path)
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = digest_of(params) == card["sha256"] and card["made_of"] == made_of
        about = card["about"]
    except (SafetensorError, *DAMAGE) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    right = {k: v.shape for k, v in params.items()} == shapes_of(spec)
    require(whole and right, f"{path} is damaged, or holds another classifier")
    return params, about
