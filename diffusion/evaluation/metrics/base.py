"""Interface of metrics, their inputs, and their notation on a command line.

A metric takes `EvalInputs`: examples, the data that they are compared with, and optionally the model that generated
them. It returns numbers by name; the features and the numbers of examples are part of the
name, since a Frechet distance of 1,000 samples on pixels is not comparable with one of 50,000 on Inception features.
Everything else that a number depends on is on its card.

A metric is named in a config as `"frechet"` or `dict(name="frechet", features="classifier")`, and on a command
line as `frechet[classifier]`; see `parse`.
"""

import abc
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffusion.classifiers.classifier import NetworkClassifier
from diffusion.data import Dataset, legal
from diffusion.evaluation import reference
from diffusion.evaluation.features import Extractor, Features
from diffusion.numerics import is_hashable, require
from diffusion.processes import Process
from diffusion.registry import lookup, spec_of
from diffusion.registry.typed import field_type, literal, read
from diffusion.types import Cond

Results = dict[str, Any]
TRAINING = "training data"  # on cards, instead of the split, if nothing is held out


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """Inputs of metrics.

    Args:
        process: process of the model; None if there are only examples, such as a folder of images.
        model_of: function from a condition to the model without guidance; None if there are only examples.
        classifier: (x_t, t) -> log-probabilities, if the run trained a classifier, which generates nothing.
        generate: function from a number of examples, and optionally the index of the first, to batches of generated
            examples, with the guidance of the config.
        train: the training data.
        held_out: held-out data of the same kind.
        num_samples: number of generated examples for metrics of samples.
        batch_size: examples per call.
        seed: seed of all random numbers.
    """

    generate: Callable[..., Iterator[np.ndarray]]
    train: Dataset
    held_out: Dataset
    process: Process | None = None
    model_of: Callable[[Cond], Any] | None = None
    num_samples: int = 1000
    batch_size: int = 100
    seed: int = 0
    classifier: NetworkClassifier | None = None

    def needs_process(self, metric: str) -> Process:
        """Return the process; raise ValueError that names the metric if there is none."""
        return self._of_run(metric, self.process, "a process")

    def needs_model(self, metric: str) -> Callable[[Cond], Any]:
        """Return the model; raise ValueError that names the metric if there is none."""
        return self._of_run(metric, self.model_of, "a model")

    def _of_run(self, metric: str, part: Any, what: str) -> Any:
        if part is None:
            raise ValueError(f"the metric {metric} needs {what}: give a run's work directory.")
        return part

    @property
    def has_training_data(self) -> bool:
        """Whether the training data differs from the held-out data."""
        return reference.unwrapped(self.train) is not reference.unwrapped(self.held_out)

    def _reaches_below(self) -> bool:
        """Whether real images have values darker than middle gray."""
        return bool((self.held_out.examples(0, 100)["data"] < 0).any())

    def extractor(self, features: Features) -> Extractor:
        """Return the extractor of features for the data; opened once per process."""
        return open_features(features, self.train)

    def generated(self, count: int | None = None) -> Iterator[np.ndarray]:
        """Yield `count` generated examples in batches, by default `num_samples`.

        Raises:
            ValueError: there are fewer than 2, or all values are in [0, 1] although the data has values below 0.
        """
        count = self.num_samples if count is None else count
        require(count >= 2, f"metrics of examples need at least 2; got num_samples={count}.")
        low, high, found = np.inf, -np.inf, 0
        for x in self.generate(count):
            if len(x):
                low, high, found = (
                    min(low, float(x.min())),
                    max(high, float(x.max())),
                    found + len(x),
                )
                yield x
        require(found >= 2, f"metrics of examples need at least 2; {found} of {count} came.")
        image = self.held_out.spec.kind == "image"
        require(
            not (image and legal.looks_like_unit(low, high) and self._reaches_below()),
            f"all generated values lie in [{low:.3g}, {high:.3g}]; images are compared in [-1, 1]: x becomes 2 x - 1.",
        )


@functools.lru_cache(maxsize=8)
def _opened(features: Features, train: Dataset) -> Extractor:
    return features.open_for(train, reference.data_dir_of(train))


def open_features(features: Features, train: Dataset) -> Extractor:
    """Open features for a data set, once per process."""
    train = reference.unwrapped(train)
    if is_hashable(features, train):
        return _opened(features, train)
    return features.open_for(train, reference.data_dir_of(train))


@dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """A metric. A subclass with a field `features` compares features of examples.

    Attributes:
        version: version of the protocol, from 1; numbers of different versions are not comparable.
        needs_run: whether the metric needs a trained run, for its model or for the labels of its examples.
    """

    version: ClassVar[int] = 1
    needs_run: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, inputs: EvalInputs) -> Results:
        """Return numbers by name."""

    @property
    def metric_name(self) -> str:
        """The name in the registry."""
        return spec_of("metric", self)["name"]

    def card(self, inputs: EvalInputs) -> dict[str, Any]:
        """Return the description of the measurement for the card, as JSON data."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        features = fields.pop("features", None)
        card: dict[str, Any] = {
            "metric": self.metric_name,
            "version": self.version,
            "settings": fields,
            "reference": reference.described(inputs.held_out, inputs.num_samples),
        }
        if not inputs.has_training_data:
            card["reference"]["split"] = TRAINING
        if features is not None:
            card["features"] = inputs.extractor(features).card
        return card


def numbers_of(metric: Metric, inputs: EvalInputs) -> Results:
    """Return the numbers of a metric; their names end in "on_training_data" if nothing is held out."""
    found = metric(inputs)
    if inputs.has_training_data:
        return found
    clean = lambda name: name.removesuffix("_on_held_out_data").replace(
        "_of_held_out_data", "_of_the_data"
    )
    return {f"{clean(name)}_on_training_data": value for name, value in found.items()}


# ---- metrics on a command line -----------------------------------------------------------------------------

_FORM = re.compile(r"\s*([\w.:]+)\s*(?:\[(.*)\])?\s*", re.DOTALL)


def _split(text: str) -> list[str]:
    """Split at commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts if p.strip()]


def values_in(text: str) -> list[Any]:
    """Return the values of all fields in the text or mapping of a metric, without looking up any name."""
    found = _FORM.fullmatch(text)
    parts = _split(found[2] or "") if found else []
    typed = [p.partition("=")[2].strip() for p in parts if "=" in p]
    return [*typed, *map(literal, typed)]


def parse(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """Parse one metric in command-line notation into a mapping for `build`.

    The forms are `frechet`, `frechet[classifier]`, and `frechet[inception,weights=FILE]` with fields of the
    features; fields of the metric itself have its name as prefix, as in `kid[pixels,kid.subset_size=100]`. A mapping
    is returned unchanged.

    Raises:
        ValueError: the text has another form, or the metric does not use features.
        KeyError: there is no such metric or no such features.
    """
    if isinstance(text, Mapping):
        return dict(text)
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"cannot read the metric {text!r}; write NAME[FEATURES,field=value].")
    name, inner = found.groups()
    target = lookup("metric", name)
    parts = _split(inner or "")
    own = {}
    for part in [p for p in parts if "=" in p and p.partition(".")[0] == name]:
        field, _, value = part.partition(".")[2].partition("=")
        own[field.strip()] = read(value.strip(), field_type("metric", name, [field.strip()]))
        parts.remove(part)
    if not parts:
        return {"name": name, **own}
    compares = "features" in inspect.signature(target).parameters
    require(compares, f"the metric {name} compares no features; write {name} without [{inner}].")
    head, *fields = parts
    if "=" in head:
        raise ValueError(f"in {text!r} the name of features comes first: {name}[pixels,{head}].")
    lookup("features", head)
    pairs = [f.partition("=") for f in fields]
    for field, equals, _ in pairs:
        require(equals, f"cannot read {field!r} in {text!r}; write field=value.")
    options = {
        field.strip(): read(value.strip(), field_type("features", head, [field.strip()]))
        for field, _, value in pairs
    }
    return {"name": name, **own, "features": {"name": head, **options} if options else head}


def parse_list(text: str | Iterable[Any]) -> list[dict[str, Any]]:
    """Parse several metrics, from a text with commas outside of brackets, or from an iterable."""
    return [parse(part) for part in (_split(text) if isinstance(text, str) else text)]


def written(spec: str | Mapping[str, Any]) -> str:
    """Return the command-line notation of a metric, the inverse of `parse`."""
    spec = parse(spec)
    name, features = spec["name"], spec.get("features")
    own = [f"{name}.{k}={v}" for k, v in spec.items() if k not in ("name", "features")]
    inner = []
    if isinstance(features, str):
        inner = [features]
    elif isinstance(features, Mapping):
        inner = [features["name"], *(f"{k}={v}" for k, v in features.items() if k != "name")]
    inner += own
    return f"{name}[{','.join(inner)}]" if inner else name
