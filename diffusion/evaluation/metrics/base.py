"""What a metric is, what it measures, and how metrics are written on a command line.

A metric takes a `EvalInputs`, examples with the data that they are compared with and perhaps the model that made
them, and returns numbers whose names say what they are made of: the features and the counts are part of the
name, since a Frechet distance of 1,000 samples on pixels is not one of 50,000 on Inception features. What else a
number depends on stands on its card.

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
TRAINING = "training data"  # in place of the split on cards, where nothing is held out


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """What is measured.

    Args:
        process: the process of the model; None where there are only examples, such as a folder of images.
        model_of: from a condition to the model without guidance; None as above.
        classifier: (x_t, t) -> log-probabilities, if that is what was trained; nothing is generated then.
        generate: from a count, and perhaps the index of the first, to batches of generated examples, guided as
            the config says.
        train: the data that it was trained on.
        held_out: data of the same kind that it was not trained on.
        num_samples: generated examples for metrics of samples.
        batch_size: examples per call.
        seed: of all random numbers.
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
        """Return the process, or refuse in the name of a metric that needs one."""
        return self._of_run(metric, self.process, "a process")

    def needs_model(self, metric: str) -> Callable[[Cond], Any]:
        """Return the model, or refuse in the name of a metric that needs one."""
        return self._of_run(metric, self.model_of, "a model")

    def _of_run(self, metric: str, part: Any, what: str) -> Any:
        if part is None:
            raise ValueError(f"the metric {metric} needs {what}: give a run's work directory.")
        return part

    @property
    def has_training_data(self) -> bool:
        """Whether the data that was trained on is another set than the held-out one."""
        return reference.unwrapped(self.train) is not reference.unwrapped(self.held_out)

    def _reaches_below(self) -> bool:
        """Say whether real images are darker than middle gray anywhere."""
        return bool((self.held_out.examples(0, 100)["data"] < 0).any())

    def extractor(self, features: Features) -> Extractor:
        """Return features opened for this inputs's data; opened once per process."""
        return open_features(features, self.train)

    def generated(self, count: int | None = None) -> Iterator[np.ndarray]:
        """Yield generated examples in batches, as many as were asked for.

        Raises:
            ValueError: there are fewer than 2, or they lie in [0, 1] where the data reaches below 0.
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
    """A measurement. A subclass with a field `features` compares features of examples.

    Attributes:
        version: of the protocol, counted from 1; numbers of different versions are not comparable.
        needs_run: whether examples alone are not enough: it asks for a model, or for the labels of examples.
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
        """Return what the numbers are made of beyond the inputs, as JSON data."""
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
    """Return the numbers of a metric; where nothing is held out, by names that end in "on_training_data"."""
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
    """Return the values of the fields of a metric as it is written, whatever their names; nothing is looked up."""
    found = _FORM.fullmatch(text)
    parts = _split(found[2] or "") if found else []
    typed = [p.partition("=")[2].strip() for p in parts if "=" in p]
    return [*typed, *map(literal, typed)]


def parse(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """Read one metric as it is written on a command line into the mapping that `build` takes.

    The forms are `frechet`, `frechet[classifier]`, and `frechet[inception,weights=FILE]` with fields of the
    features; fields of the metric itself carry its name, as in `kid[pixels,kid.subset_size=100]`. A mapping is
    returned as it is.

    Raises:
        ValueError: the text has another form, or the metric compares no features.
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
    """Read several metrics, separated by commas outside of brackets, or given one by one."""
    return [parse(part) for part in (_split(text) if isinstance(text, str) else text)]


def written(spec: str | Mapping[str, Any]) -> str:
    """Return a metric as it is written on a command line: what `parse` reads back."""
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
