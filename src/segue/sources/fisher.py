"""The diagonal Fisher information: how much the source model's predictions depend on each weight."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from segue.batches import batch_size, leaves, map_tensors
from segue.checks import check_at_least_one, check_count, unknown_name
from segue.randomness import OwnRandomState, derived_seed, own_global_random_states
from segue.sources.replay import Replay

__all__ = ["Fisher", "FisherKind", "diagonal_fisher", "load_fisher", "save_fisher"]

FisherKind = Literal["true", "empirical"]
Logits = Callable[[nn.Module, Any], Any]
_FORMAT = "segue.fisher.1"


@dataclass(frozen=True)
class Fisher:
    """A diagonal Fisher information.

    Attributes:
        diagonal: Parameter name → tensor of its shape, ≥ 0.
        kind: ``"true"`` or ``"empirical"``.
        num_examples: Over how many examples the mean was taken.
    """

    diagonal: Mapping[str, Tensor]
    kind: FisherKind
    num_examples: int


def diagonal_fisher(
    model: nn.Module,
    data: Any,
    *,
    kind: FisherKind,
    num_samples: int | None = None,
    logits: Logits | None = None,
    includes: Callable[[str], bool] | None = None,
    seed: int = 0,
) -> Fisher:
    r"""Mean over examples of the squared gradient of the log-likelihood, parameter by parameter.

    .. math:: F_i = \frac{1}{N} \sum_n \mathbb{E}_y \left( \partial_i \log p(y \mid x_n) \right)^2

    ``"true"`` takes y from the model's own distribution, ``"empirical"`` takes the label of the
    example. The gradient is squared example by example (the square of a batch's mean gradient is
    another, far smaller number). The model passes in evaluation mode; its weights, buffers, modes
    and gradients and the random states are afterwards what they were.

    Args:
        model: A classifier, or a language model whose logits have several rows an example; the rows
            of an example count as one likelihood.
        data: The source: a :class:`segue.Replay` (its whole bank; its position stays), tensors
            ``(inputs, labels)`` that share their first dimension, a dict of them with ``labels``, or a
            map-style dataset of such pairs or dicts.
        kind: ``"true"`` or ``"empirical"``.
        num_samples: For ``"true"``: draw so many labels an example. None takes the exact expectation,
            one backward pass per class, for models with one row of logits an example.
        logits: ``logits(model, inputs)`` for a batch of one example. By default ``model(inputs)``,
            or ``model(**inputs).logits`` for a dict, of which ``labels`` are left out.
        includes: Which parameters, by name; all that require a gradient if None.
        seed: Draws the labels of ``num_samples``.

    Returns:
        The mean over all examples. Labels of −100 are passed over.

    Raises:
        ValueError: If ``kind`` is unknown, there is no example or no parameter, or a gradient is
            not finite (names the example).

    Cost: one forward and, per example, one backward (empirical), ``num_samples``, or one per class;
    memory: one tensor of each parameter's size. Examples pass one by one, so that every network will
    do.

    Source: Kirkpatrick et al., arXiv 1612.00796; true and empirical: Kunstner, Balles and Hennig,
    arXiv 1905.12558.

    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> fisher = diagonal_fisher(model, (torch.tensor([[2.0]]), torch.tensor([0])), kind="true")
    >>> fisher.diagonal["weight"].flatten().tolist()
    [1.0, 1.0]
    """
    if kind not in get_args(FisherKind):
        raise ValueError(unknown_name("kind", kind, get_args(FisherKind)))
    if num_samples is not None:
        if kind == "empirical":
            raise ValueError(f"num_samples must be None for kind 'empirical', got {num_samples}")
        check_at_least_one("num_samples", num_samples)
    check_count("seed", seed)
    parameters = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and (includes is None or includes(name))
    }
    if not parameters:
        raise ValueError("includes must keep at least one parameter of the model, got none")
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(derived_seed("fisher", seed))
    count = 0
    with _undisturbed(model, seed):
        for example in _examples(data):
            inputs, labels = _split(example)
            rows = _rows((logits or _default_logits)(model, inputs))
            for weight, likelihood in _likelihoods(rows, labels, kind, num_samples, generator):
                _add_squared_gradients(total, parameters, likelihood, weight)
            _check_finite(total, count)
            count += 1
    if count == 0:
        raise ValueError("data must hold at least one example, got none")
    return Fisher({name: value / count for name, value in total.items()}, kind, count)


def save_fisher(path: str | Path, fisher: Fisher) -> None:
    """Write a Fisher to one safetensors file, whole or not at all.

    Raises:
        ImportError: If safetensors is not installed.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    metadata = {"format": _FORMAT, "kind": fisher.kind, "num_examples": str(fisher.num_examples)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in fisher.diagonal.items()}
    content = _safetensors().save(tensors, metadata=metadata)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_fisher(path: str | Path) -> Fisher:
    """Read what :func:`save_fisher` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut short, or no Fisher.
        ImportError: If safetensors is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"found no Fisher at {path}")
    library = _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} must be a Fisher of format {_FORMAT}, got {metadata.get('format')}"
            )
        kind = metadata["kind"]
        diagonal = library.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a whole safetensors file, got {error}") from error
    if kind not in get_args(FisherKind):
        raise ValueError(unknown_name("kind", kind, get_args(FisherKind)))
    return Fisher(diagonal, kind, int(metadata["num_examples"]))


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'a stored Fisher needs safetensors: pip install "segue[experiments]"'
        ) from error
    return safetensors.torch


@contextmanager
def _undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, and random states of our own; all is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    own = OwnRandomState(derived_seed("fisher pass", seed))
    try:
        model.eval()
        seeded = own_global_random_states(derived_seed("fisher pass", seed))
        with seeded, own.in_use(), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _examples(data: Any) -> Iterator[Any]:
    """Yield batches of one example."""
    collated = isinstance(data, tuple | Mapping)
    if isinstance(data, Replay):
        collated = True  # into a list, if its dataset gives pairs
        # A copy shares the bank and has a position of its own: at its start each example comes once.
        own = copy.copy(data)
        own.load_state_dict({**data.state_dict(), "position": 0, "micro_batch": 0})
        data = own.take(own.num_examples)
    if isinstance(data, Tensor):
        raise TypeError("data must hold inputs and labels, got a tensor; pass (inputs, labels)")
    if collated:
        tensors = {path: leaf for path, leaf in leaves(data, "data") if isinstance(leaf, Tensor)}
        for index in range(batch_size(list(tensors.values()), "data")):
            yield map_tensors(lambda tensor, i=index: tensor[i : i + 1], data)  # type: ignore[misc]
        return
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(
            "data must be a Replay, tensors (inputs, labels) or a map-style dataset, "
            f"got {type(data).__name__}"
        )
    for index in range(len(data)):
        yield default_collate([data[index]])


def _split(example: Any) -> tuple[Any, Tensor]:
    if isinstance(example, Mapping):
        if not isinstance(example.get("labels"), Tensor):
            raise TypeError(f"data must have labels, got the keys {sorted(map(str, example))}")
        return {k: v for k, v in example.items() if k != "labels"}, example["labels"]
    if not isinstance(example, list | tuple) or len(example) != 2:
        raise TypeError(
            f"an example must be a pair (input, label) or a dict, got {type(example).__name__}"
        )
    return example[0], torch.as_tensor(example[1])


def _default_logits(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _rows(output: Any) -> Tensor:
    """Log-probabilities, shape (rows, classes)."""
    value = getattr(output, "logits", output)
    if not isinstance(value, Tensor) or value.ndim < 2:
        raise TypeError(
            "the model must give logits of shape (1, ..., classes) for one example, got "
            f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        )
    return F.log_softmax(value.flatten(end_dim=-2), dim=-1)


def _likelihoods(
    rows: Tensor,
    labels: Tensor,
    kind: FisherKind,
    num_samples: int | None,
    generator: torch.Generator,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (weight, log-likelihood) pairs whose squared gradients add up to an example's Fisher."""
    labels = labels.reshape(-1).to(rows.device)
    if kind == "empirical":
        if len(labels) != len(rows):
            raise ValueError(
                f"an example must have a label for each of its {len(rows)} rows of logits, "
                f"got {len(labels)}"
            )
        counted = labels != -100
        yield 1.0, rows[counted].gather(1, labels[counted, None]).sum()
        return
    if len(labels) == len(rows):
        rows = rows[labels != -100]
    if num_samples is not None:
        probabilities = rows.detach().exp().double().cpu()
        for _ in range(num_samples):
            drawn = torch.multinomial(probabilities, 1, generator=generator).to(rows.device)
            yield 1.0 / num_samples, rows.gather(1, drawn).sum()
        return
    if len(rows) > 1:
        raise ValueError(
            "num_samples must be given for a model with several rows of logits an example "
            f"(here {len(rows)}): the exact expectation would need every combination of labels"
        )
    for label in range(rows.shape[1] if len(rows) else 0):
        yield float(rows[0, label].detach().exp()), rows[0, label]


def _add_squared_gradients(
    total: dict[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    likelihood: Tensor,
    weight: float,
) -> None:
    # autograd.grad, because backward() would add to the gradients that are there.
    gradients = torch.autograd.grad(
        likelihood, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            total[name] += weight * gradient.square()


def _check_finite(total: Mapping[str, Tensor], index: int) -> None:
    sums = torch.stack([value.sum() for value in total.values()])
    if not bool(torch.isfinite(sums).all()):  # one look an example, for the sake of a device
        names = [name for name, value in total.items() if not bool(torch.isfinite(value).all())]
        raise ValueError(f"the Fisher is not finite at example {index}, in {', '.join(names)}")
