"""The source's data: what a user hands over, and how its examples become token ids with a mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from segue.checks import check_at_least_one, unknown_name
from segue.losses import LossSum

__all__ = ["Normalization", "Source", "pad_examples", "prepared"]

Normalization = Literal["token", "sequence"]
IGNORED = -100
_TEXT_FIELDS = ("messages", "prompt")


@dataclass(frozen=True)
class Source:
    """A source dataset with a collator, a loss and a mask of its own, beside the trainer's.

    Passing a bare dataset as ``source=`` is the same as ``Source(dataset)``.

    Args:
        dataset: Map-style or iterable data. An example is a mapping with one of ``input_ids`` (and
            maybe ``labels``, ``completion_mask`` or ``assistant_masks``), ``text``, ``messages``, or
            ``prompt`` and ``completion``; text goes through the trainer's tokenizer and its chat
            template. Anything else (images, say) is left as it is for the collator. Only the
            examples of the bank are drawn and tokenized, each once.
        data_collator: Turns a list of examples into a batch of model inputs. If None, token ids are
            padded (labels with -100), and other examples go through the trainer's collator.
        compute_loss: ``(model, batch) -> loss`` where the model's own loss will not do: a
            :class:`segue.LossSum`, or the mean over the batch's items as a scalar tensor. It must be
            finite where no item counts.
        normalization: What one item of the source loss is: a ``"token"``, so that the source loss is
            one mean over all unmasked labels of an optimizer step, or a ``"sequence"``, so that it is
            the mean over sequences of each one's token mean.
        count_items: ``batch -> number of items`` where labels do not tell it.
        prepare_example: Applied to each example of the bank, once, before anything else.
        text_field: Column of plain text.
        max_length: Cut token ids after so many. None takes the trainer's ``args.max_length`` where
            it has one.
        completion_only_loss: Mask the prompt of prompt–completion examples.
        assistant_only_loss: Mask everything but the assistant's turns of conversations; the chat
            template must mark them with ``{% generation %}``.

    Raises:
        TypeError, ValueError: If a field is not what it should be.
    """

    dataset: Any
    data_collator: Callable[[list[Any]], Any] | None = None
    compute_loss: Callable[[Any, Any], Tensor | LossSum] | None = None
    normalization: Normalization = "token"
    count_items: Callable[[Any], int | Tensor] | None = None
    prepare_example: Callable[[Any], Any] | None = None
    text_field: str = "text"
    max_length: int | None = None
    completion_only_loss: bool = True
    assistant_only_loss: bool = False

    def __post_init__(self) -> None:
        if self.normalization not in get_args(Normalization):
            raise ValueError(
                unknown_name("normalization", self.normalization, get_args(Normalization))
            )
        for name in ("data_collator", "compute_loss", "count_items", "prepare_example"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function, got {type(value).__name__}")
        if self.max_length is not None:
            check_at_least_one("max_length", self.max_length)
        if isinstance(self.dataset, Source):
            raise TypeError("dataset must be a dataset, got a Source")


def is_map_style(dataset: Any) -> bool:
    """Whether examples can be drawn by index, without reading all of them."""
    if isinstance(dataset, IterableDataset | Mapping):
        return False
    return isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")


def prepared(source: Source, tokenizer: Any, max_length: int | None) -> Any:
    """Return the source's dataset with its examples ready for the collator.

    Args:
        source: What the user gave.
        tokenizer: The trainer's tokenizer or processor, or None.
        max_length: The trainer's limit, where the source sets none.
    """
    prepare = _Preparation(source, getattr(tokenizer, "tokenizer", tokenizer), max_length)
    if is_map_style(source.dataset):
        return _Prepared(source.dataset, prepare)
    return _PreparedStream(source.dataset, prepare)


class _Prepared:
    """A map-style dataset whose examples are prepared when they are drawn."""

    def __init__(self, dataset: Any, prepare: Callable[[Any], Any]) -> None:
        self._dataset, self._prepare = dataset, prepare

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._prepare(self._dataset[index])


class _PreparedStream:
    """The same for a dataset that can only be read in order."""

    def __init__(self, dataset: Any, prepare: Callable[[Any], Any]) -> None:
        if not hasattr(dataset, "__iter__") or isinstance(dataset, Mapping):
            raise TypeError(
                f"source must be a dataset of examples, got {type(dataset).__name__}; pass a "
                "map-style dataset, an iterable one or a list"
            )
        self._dataset, self._prepare = dataset, prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self._prepare, self._dataset)


class _Preparation:
    """Turns one raw example into token ids and labels, or leaves it alone."""

    def __init__(self, source: Source, tokenizer: Any, max_length: int | None) -> None:
        self._source, self._tokenizer = source, tokenizer
        self._max_length = max_length if source.max_length is None else source.max_length

    def __call__(self, example: Any) -> Any:
        source = self._source
        if source.prepare_example is not None:
            example = source.prepare_example(example)
        if not isinstance(example, Mapping):
            return example
        if "input_ids" not in example:
            if not any(name in example for name in (source.text_field, *_TEXT_FIELDS)):
                return dict(example)
            example = self._tokenize(example)
        ids = _integers(example["input_ids"])
        labels = _integers(example["labels"]) if "labels" in example else self._mask(example, ids)
        if len(labels) != len(ids):  # one label for the whole text: no language model's example
            return dict(example)
        kept = slice(None, self._max_length)
        out = {"input_ids": ids[kept], "labels": labels[kept]}
        if "attention_mask" in example:
            out["attention_mask"] = _integers(example["attention_mask"])[kept]
        return out

    def _mask(self, example: Mapping[str, Any], ids: list[int]) -> list[int]:
        kept = [True] * len(ids)
        for name, applies in (
            ("completion_mask", self._source.completion_only_loss),
            ("assistant_masks", True),
        ):
            if applies and name in example:
                kept = [a and bool(b) for a, b in zip(kept, example[name], strict=True)]
        return [token if keep else IGNORED for token, keep in zip(ids, kept, strict=True)]

    def _tokenize(self, example: Mapping[str, Any]) -> dict[str, Any]:
        if self._tokenizer is None:
            raise TypeError(
                "processing_class must be given where source examples are text, got None; pass a "
                "tokenizer, or examples with input_ids"
            )
        if "prompt" in example:
            return self._tokenize_completion(example)
        if "messages" in example:
            return self._chat(example["messages"], example, masks=self._source.assistant_only_loss)
        return {"input_ids": self._ids(self._ended(example[self._source.text_field]))}

    def _tokenize_completion(self, example: Mapping[str, Any]) -> dict[str, Any]:
        if "completion" not in example:
            raise ValueError(
                "a source example with a prompt must have a completion, got columns "
                f"{sorted(map(str, example))}; to use preference pairs, make text of them with "
                "Source(prepare_example=...)"
            )
        prompt, completion = example["prompt"], example["completion"]
        if isinstance(prompt, str):
            ids = self._ids(self._ended(prompt + completion))
            start = _common_prefix(self._ids(prompt), ids)
            return {"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start)}
        whole = self._chat([*prompt, *completion], example, masks=self._source.assistant_only_loss)
        ids = whole["input_ids"]
        start = _common_prefix(self._chat(prompt, example, prompt=True)["input_ids"], ids)
        return whole | {"completion_mask": [0] * start + [1] * (len(ids) - start)}

    def _chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        example: Mapping[str, Any],
        *,
        prompt: bool = False,
        masks: bool = False,
    ) -> dict[str, Any]:
        tools = example.get("tools")
        found = self._tokenizer.apply_chat_template(
            list(messages),
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=masks,
        )
        if masks and not any(found["assistant_masks"]):
            raise ValueError(
                "assistant_only_loss needs a chat template that marks the assistant's turns with "
                "{% generation %}: a source example has none marked"
            )
        names = ("input_ids", "assistant_masks") if masks else ("input_ids",)
        return {name: list(found[name]) for name in names}

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def _ended(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError(
                f"the source's {self._source.text_field!r} must be a text, "
                f"got {type(text).__name__}"
            )
        end = getattr(self._tokenizer, "eos_token", None)
        return text if not end or text.endswith(end) else text + end


def pad_examples(examples: Sequence[Mapping[str, Any]], padding_id: int) -> dict[str, Tensor]:
    """Collate examples of unequal lengths, padded on the right; padded labels do not count.

    >>> batch = pad_examples(
    ...     [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}], 0
    ... )
    >>> batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist()
    ([[5, 6], [7, 0]], [[-100, 6], [7, -100]], [[1, 1], [1, 0]])
    """
    length = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, filling: int) -> Tensor:
        rows = []
        for example in examples:
            row = example.get(name)
            row = [1] * len(example["input_ids"]) if row is None else list(row)
            rows.append(row + [filling] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.long)

    return {
        "input_ids": padded("input_ids", padding_id),
        "labels": padded("labels", IGNORED),
        "attention_mask": padded("attention_mask", 0),
    }


def _integers(values: Any) -> list[int]:
    values = values.tolist() if hasattr(values, "tolist") else values
    return list(values) if isinstance(values, Sequence) else [values]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
