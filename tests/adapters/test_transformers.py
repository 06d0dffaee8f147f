"""What is particular to Transformers' trainers; what every adapter must do is in tests/contract."""

from __future__ import annotations

import importlib
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

sys.path.insert(0, str(Path(__file__).parent))
from transformers_tiny import make_model, make_tokenizer, texts, tokenized

import segue
from segue.adapters.transformers import Source
from segue.adapters.transformers.source import pad_examples

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SmoothedTrainer = segue.smooth(Trainer)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(**(settings | changes))


def make(folder: Path, trainer_class: Any = SmoothedTrainer, **given: Any) -> Any:
    names = set(TrainingArguments.__dataclass_fields__)
    changes = {name: given.pop(name) for name in list(given) if name in names}
    settings: dict[str, Any] = {
        "model": make_model(),
        "train_dataset": tokenized(texts(20, seed=2)),
        "data_collator": lambda examples: pad_examples(examples, padding_id=0),
        "processing_class": make_tokenizer(),
        "source": texts(20, seed=1),
        "num_bank_examples": 16,
    }
    if "schedule" not in given:
        settings["num_smoothing_steps"] = 4
    return trainer_class(args=arguments(folder, **changes), **(settings | given))


def entries(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


class AtStep(TrainerCallback):
    """Calls a function at the beginning of every optimizer step."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._function(state.global_step)


# -- the class and its arguments -----------------------------------------------------------------


def test_a_smoothed_class_is_a_subclass_made_once() -> None:
    assert issubclass(SmoothedTrainer, Trainer)
    assert SmoothedTrainer.__name__ == "SmoothedTrainer"
    assert segue.smooth(Trainer) is SmoothedTrainer
    assert segue.smooth(SmoothedTrainer) is SmoothedTrainer


@pytest.mark.parametrize("value", [object, "Trainer", Trainer.train])
def test_what_is_no_trainer_class_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"trainer_class must be transformers\.Trainer .* got"):
        segue.smooth(value)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segue.adapters.transformers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "segue\[transformers\]"'):
        importlib.import_module("segue.adapters.transformers")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_smoothing_steps": 1.0}, ValueError, r"must be in \(0, 1\), got 1\.0"),
        ({"num_smoothing_steps": 300.0}, ValueError, r"must be in \(0, 1\), got 300\.0"),
        ({"num_smoothing_steps": -1}, ValueError, "num_smoothing_steps must be >= 0, got -1"),
        ({"num_smoothing_steps": None}, TypeError, r"num_smoothing_steps \(or schedule\)"),
        ({"source": None}, TypeError, "source must be given, got None"),
        ({"source": []}, ValueError, "source must hold at least one example"),
        ({"source": 3}, TypeError, "source must be a dataset of examples, got int"),
        ({"mode": "mxi"}, ValueError, "unknown mode 'mxi'; did you mean 'mix'"),
        ({"mode": "joint"}, ValueError, "unknown mode 'joint'"),
        ({"non_finite": "stop"}, ValueError, "unknown non_finite policy 'stop'"),
        ({"num_bank_examples": 21}, ValueError, r"num_bank_examples must be <= .*\(20\), got 21"),
        ({"num_bank_examples": 0}, ValueError, "num_bank_examples must be >= 1, got 0"),
        ({"source_batch_size": 0}, ValueError, "source_batch_size must be >= 1, got 0"),
        ({"schedule": 0.5}, TypeError, "schedule must be a function, got float"),
        ({"schedule": segue.constant(0.5)}, TypeError, "schedule must be one of Segue's decays"),
        ({"source": [{"prompt": "w1", "chosen": "w2"}]}, ValueError, "must have a completion"),
        ({"source": [{"text": 3}] * 20}, TypeError, "'text' must be a text, got int"),
        ({"processing_class": None}, TypeError, "processing_class must be given"),
    ],
)
def test_wrong_arguments_are_refused_before_training(
    tmp_path: Path, given: dict[str, Any], error: Any, message: str
) -> None:
    if given.get("source") and isinstance(given["source"], list):
        given = {"num_bank_examples": None, **given}
    with pytest.raises(error, match=message):
        make(tmp_path, **{"num_smoothing_steps": 4, **given})


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown normalization 'tokens'; did you mean 'token'"):
        Source([], normalization="tokens")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="compute_loss must be a function, got str"):
        Source([], compute_loss="loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_length must be >= 1, got 0"):
        Source([], max_length=0)


def test_a_ramp_longer_than_training_is_refused_when_training_starts(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_smoothing_steps=7)
    with pytest.raises(ValueError, match=r"must be <= num_training_steps \(6\), got 7"):
        trainer.train()


def test_a_share_of_training_is_rounded_up(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_smoothing_steps=0.4)  # 2.4 of 6
    trainer.train()
    assert entries(trainer, "source_weight") == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0])


def test_a_decay_is_stretched_over_the_smoothing_steps(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_smoothing_steps=2, schedule=segue.cosine_decay)
    trainer.train()
    assert entries(trainer, "source_weight") == pytest.approx([1, 0.5, 0, 0, 0, 0])


def test_zero_smoothing_steps_need_no_source(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_smoothing_steps=0, source=None)
    trainer.train()
    assert entries(trainer, "source_weight") == [0.0] * 6


# -- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "trace"),
    [
        (0, [0, 0, 0, 0, 0, 0]),
        (1, [1, 0, 0, 0, 0, 0]),
        (2, [1, 0.5, 0, 0, 0, 0]),
        (5, [1, 0.8, 0.6, 0.4, 0.2, 0]),
    ],
)
def test_weights_of_every_step_are_exact(
    tmp_path: Path, num_steps: int, trace: list[float]
) -> None:
    trainer = make(
        tmp_path,
        num_smoothing_steps=num_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    assert entries(trainer, "source_weight") == pytest.approx(trace, abs=1e-15)


class ScaledTrainer(Trainer):
    """Trains with a gradient scaler, which a CPU has but Accelerate does not give it."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)


@pytest.mark.parametrize("mode", ["mix", "backward"])
def test_a_step_that_the_scaler_skipped_does_not_count(tmp_path: Path, mode: str) -> None:
    trainer = make(tmp_path, segue.smooth(ScaledTrainer), mode=mode)
    before: dict[int, Tensor] = {}
    weight = trainer.model.lm_head.weight
    overflows = [False]
    weight.register_hook(lambda grad: grad * torch.inf if overflows[0] else grad)

    def note(step: int) -> None:
        overflows[0] = step == 1
        before[step] = weight.detach().clone()

    trainer.add_callback(AtStep(note))
    trainer.train()
    assert torch.equal(before[1], before[2])  # skipped
    assert not torch.equal(before[2], before[3])
    assert trainer.state.global_step == 6  # the trainer counts it all the same
    assert trainer.smoothing.num_steps == 5
    assert entries(trainer, "source_weight") == [1.0, 0.75, 0.75, 0.5, 0.25, 0.0]


def test_a_second_training_starts_its_own_ramp(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_smoothing_steps=2)
    trainer.train()
    assert trainer.replay.released
    trainer.train()
    assert entries(trainer, "source_weight") == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert trainer.replay.released


def test_evaluation_neither_moves_the_clock_nor_sees_the_source(tmp_path: Path) -> None:
    held_out = tokenized(texts(6, seed=7))
    trainer = make(
        tmp_path,
        schedule=segue.constant(0.5),
        eval_dataset=held_out,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    assert trainer.smoothing.num_steps == 6
    assert entries(trainer, "source_weight") == [0.5] * 6
    with torch.no_grad():
        loss = float(trainer.model.eval()(**pad_examples(held_out, padding_id=0)).loss)
    assert entries(trainer, "eval_loss")[-1] == pytest.approx(loss, rel=1e-5)


# -- the source ----------------------------------------------------------------------------------


def test_the_source_is_not_evaluated_after_the_ramp_and_its_bank_is_freed(tmp_path: Path) -> None:
    steps: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        steps.append(trainer.state.global_step)
        value: Tensor = model(**batch).loss
        return value

    trainer = make(tmp_path, source=Source(texts(20, seed=1), compute_loss=loss))
    assert not trainer.replay.released
    trainer.train()
    assert steps == [0, 1, 2, 3]
    assert trainer.replay.released


def test_a_floor_keeps_the_source_for_ever(tmp_path: Path) -> None:
    trainer = make(tmp_path, schedule=segue.linear_decay(2, final_weight=0.25))
    trainer.train()
    assert entries(trainer, "source_weight") == [1.0, 0.625, 0.25, 0.25, 0.25, 0.25]
    assert not trainer.replay.released


def test_only_the_banks_examples_are_drawn_and_each_once(tmp_path: Path) -> None:
    drawn: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> dict[str, str]:
            drawn.append(index)
            return {"text": f"w{index % 24} w1 w2"}

    make(tmp_path, source=Counting()).train()
    assert len(drawn) == len(set(drawn)) == 16


def test_a_stream_gives_its_first_examples(tmp_path: Path) -> None:
    def endless() -> Any:
        while True:
            yield {"text": "w1 w2 w3"}

    trainer = make(tmp_path, source=endless(), num_bank_examples=8)
    assert trainer.replay.num_examples == 8
    trainer.train()
    assert entries(trainer, "source_count") == [12, 12, 12, 12]  # 4 texts with 3 predicted tokens


def test_source_batch_is_as_large_as_the_targets_unless_the_bank_is_smaller(tmp_path: Path) -> None:
    assert make(tmp_path, gradient_accumulation_steps=2).replay.batch_size == 8
    assert make(tmp_path, gradient_accumulation_steps=8).replay.batch_size == 16
    assert make(tmp_path, source_batch_size=3).replay.batch_size == 3


LENGTHS = (7, 2)


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_token_and_sequence_means_by_hand_for_lengths_7_and_2(
    tmp_path: Path, normalization: Any, accumulation: int
) -> None:
    # A label at position 0 is predicted by nothing: 8 and 3 tokens give 7 and 2 labels that count.
    examples = [{"input_ids": list(range(5, 13)), "labels": list(range(5, 13))}]
    examples.append({"input_ids": [9, 8, 7], "labels": [9, 8, 7]})
    trainer = make(
        tmp_path,
        source=Source(examples, normalization=normalization),
        num_bank_examples=None,
        source_batch_size=2,
        schedule=segue.constant(1.0),
        max_steps=1,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    sums = []
    for example in examples:
        ids = torch.tensor([example["input_ids"]])
        logits = make_model()(input_ids=ids).logits[0, :-1]
        sums.append(float(F.cross_entropy(logits, ids[0, 1:], reduction="sum").detach()))
    by_hand = {
        "token": (sums[0] + sums[1]) / 9,
        "sequence": (sums[0] / 7 + sums[1] / 2) / 2,
    }
    assert by_hand["token"] != pytest.approx(by_hand["sequence"], rel=1e-3)
    trainer.train()
    assert entries(trainer, "source_loss") == pytest.approx([by_hand[normalization]], rel=1e-5)
    assert entries(trainer, "source_count") == [9 if normalization == "token" else 2]


def test_a_mean_loss_of_ones_own_is_weighted_by_its_items(tmp_path: Path) -> None:
    def mean(model: Any, batch: Any) -> Tensor:
        value: Tensor = model(**batch).loss  # the mean over this micro-batch's labels
        return value

    def total(model: Any, batch: Any) -> segue.LossSum:
        count = batch["labels"][:, 1:].ne(-100).sum()
        return segue.LossSum(model(**batch).loss * count, count)

    weights = []
    for loss, accumulation in ((None, 1), (mean, 4), (total, 2)):
        trainer = make(
            tmp_path,
            source=Source(texts(20, seed=1), compute_loss=loss),
            schedule=segue.constant(1.0),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        weights.append(trainer.model.lm_head.weight.detach().clone())
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            lambda model, batch: segue.LossSum(model(**batch).loss, 1),
            ValueError,
            "compute_loss summed 1 items where",
        ),
        (lambda model, batch: model(**batch).logits, TypeError, "must return a scalar tensor"),
    ],
)
def test_a_wrong_loss_of_ones_own_is_refused(
    tmp_path: Path, loss: Any, error: Any, message: str
) -> None:
    trainer = make(tmp_path, source=Source(texts(20, seed=1), compute_loss=loss))
    with pytest.raises(error, match=message):
        trainer.train()


def test_a_batch_without_labels_is_refused(tmp_path: Path) -> None:
    source = Source(
        texts(20, seed=1), data_collator=lambda examples: {"input_ids": torch.zeros(4, 3).long()}
    )
    with pytest.raises(ValueError, match=r"must have labels to count its items by"):
        make(tmp_path, source=source).train()


def make_classifier() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=29, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def test_a_classifiers_source_is_one_mean_over_its_examples(tmp_path: Path) -> None:
    # Not a language model: the trainer's own collator, and a loss that divides by the micro-batch.
    data = [{"input_ids": [i % 29, 3, i % 7], "labels": i % 2} for i in range(20)]
    source = [{"input_ids": [5, i % 29, 4], "labels": int(i < 3)} for i in range(7)]
    trainer = make(
        tmp_path,
        model=make_classifier(),
        train_dataset=data,
        data_collator=None,
        source=source,
        num_bank_examples=None,
        source_batch_size=7,  # micro-batches of 1, 2, 2 and 2
        schedule=segue.constant(1.0),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    model = make_classifier()
    ids = torch.tensor([example["input_ids"] for example in source])
    labels = torch.tensor([example["labels"] for example in source])
    F.cross_entropy(model(input_ids=ids).logits, labels).backward()
    for name, trained in trainer.model.named_parameters():
        before = dict(model.named_parameters())[name]
        after = before - 0.1 * (before.grad if before.grad is not None else 0.0)
        torch.testing.assert_close(trained.detach(), after.detach(), rtol=0, atol=2e-6)


def test_global_random_states_are_left_alone(tmp_path: Path) -> None:
    def masking(examples: list[Any]) -> dict[str, Tensor]:
        batch = pad_examples(examples, padding_id=0)
        return batch | {
            "labels": batch["labels"].where(torch.rand(batch["labels"].shape) > 0.3, -100)
        }

    states = []
    for source in (texts(20, seed=1), Source(texts(20, seed=1), data_collator=masking)):
        make(tmp_path, source=source).train()
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1])


# -- the log -------------------------------------------------------------------------------------


def test_the_log_holds_raw_and_weighted_losses_and_counts(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    class Logger(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            seen.append(dict(logs))

    trainer = make(tmp_path, callbacks=[Logger()], gradient_accumulation_steps=2)
    trainer.train()
    on_ramp = [logs for logs in seen if logs.get("source_weight", 0.0) > 0]
    assert len(on_ramp) == 4
    for logs in on_ramp:
        weight = logs["source_weight"]
        assert logs["target_loss"] == pytest.approx(logs["loss"], rel=1e-6)
        assert logs["weighted_source_loss"] == pytest.approx(weight * logs["source_loss"])
        assert logs["weighted_target_loss"] == pytest.approx(
            (1 - weight) * logs["loss"], rel=1e-6, abs=1e-7
        )
        assert logs["source_count"] > 0
        assert logs["target_count"] > 0
    after = next(logs for logs in seen if logs.get("source_weight") == 0.0)
    assert "source_loss" not in after
    assert after["loss"] > 0
    assert "source_weight" not in seen[-1]  # the summary of the whole training


def test_logged_losses_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    every = make(tmp_path, schedule=segue.constant(0.5))
    every.train()
    third = make(tmp_path, schedule=segue.constant(0.5), logging_steps=3)
    third.train()
    for key in ("loss", "source_loss", "target_loss", "weighted_source_loss"):
        ones = entries(every, key)
        means = [sum(ones[:3]) / 3, sum(ones[3:]) / 3]
        assert entries(third, key) == pytest.approx(means, rel=1e-5)
    assert entries(third, "source_count") == [
        sum(entries(every, "source_count")[:3]),
        sum(entries(every, "source_count")[3:]),
    ]


def test_the_summary_reports_the_target_loss(tmp_path: Path) -> None:
    trainer = make(tmp_path, schedule=segue.constant(0.5))
    result = trainer.train()
    assert result.training_loss == pytest.approx(sum(entries(trainer, "loss")) / 6)


@pytest.mark.parametrize("choice", ["best", "early"])
def test_choosing_a_model_on_the_ramp_draws_a_warning(tmp_path: Path, choice: str) -> None:
    given: dict[str, Any] = {
        "eval_dataset": tokenized(texts(4, seed=7)),
        "eval_strategy": "steps",
        "metric_for_best_model": "eval_loss",
        "callbacks": [EarlyStoppingCallback(early_stopping_patience=9)]
        if choice == "early"
        else [],
        "load_best_model_at_end": choice == "best",
        "save_strategy": "steps" if choice == "best" else "no",
    }
    what = "early stopping" if choice == "early" else "load_best_model_at_end"
    with pytest.warns(RuntimeWarning, match=f"{what} during the ramp: the model of step 2"):
        make(tmp_path, eval_steps=2, save_steps=2, **given).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        make(tmp_path, eval_steps=2, save_steps=2, num_smoothing_steps=2, **given).train()


# -- checkpoints ---------------------------------------------------------------------------------


def test_the_state_is_safetensors_with_strict_json(tmp_path: Path) -> None:
    make(tmp_path, save_strategy="steps", save_steps=2).train()
    path = tmp_path / "checkpoint-2" / "segue_state.safetensors"
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    json.loads(
        header["__metadata__"]["segue.state"],
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )


def test_a_log_that_spans_a_checkpoint_is_whole_after_resuming(tmp_path: Path) -> None:
    given: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
    undisturbed = make(tmp_path / "a", schedule=segue.constant(0.5), **given)
    undisturbed.train()
    resumed = make(tmp_path / "b", schedule=segue.constant(0.5), **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for key in ("source_loss", "target_loss", "source_count"):
        assert entries(resumed, key) == entries(undisturbed, key)


def test_resuming_without_a_saved_ramp_is_refused(tmp_path: Path) -> None:
    plain = Trainer(
        model=make_model(),
        args=arguments(tmp_path, save_strategy="steps", save_steps=2),
        train_dataset=tokenized(texts(20, seed=2)),
        data_collator=lambda examples: pad_examples(examples, padding_id=0),
    )
    plain.train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match="must be the checkpoint of a smoothed run"):
        make(tmp_path).train(resume_from_checkpoint=checkpoint)
    make(tmp_path, num_smoothing_steps=0).train(resume_from_checkpoint=checkpoint)


def test_resuming_with_another_ramp_or_source_is_refused(tmp_path: Path) -> None:
    make(tmp_path, save_strategy="steps", save_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match="schedule must be the saved one"):
        make(tmp_path, num_smoothing_steps=5).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="must hold the examples it held when it was saved"):
        make(tmp_path, source=texts(20, seed=9)).train(resume_from_checkpoint=checkpoint)


def test_resuming_after_the_ramp_frees_the_bank_at_once(tmp_path: Path) -> None:
    make(tmp_path, num_smoothing_steps=2, save_strategy="steps", save_steps=3).train()
    trainer = make(tmp_path, num_smoothing_steps=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.replay.released
    assert entries(trainer, "source_weight")[-3:] == [0.0, 0.0, 0.0]


# -- trainers that are unlike the others ---------------------------------------------------------


class Halving(Trainer):
    """Scales its loss in a way of its own."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch) / 2
        self.accelerator.backward(loss)
        return loss.detach()


class Silent(Trainer):
    """Does not call compute_loss."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = model(**inputs).loss
        self.accelerator.backward(loss)
        return loss.detach()


@pytest.mark.parametrize(
    ("trainer_class", "message"),
    [
        (Halving, r"SmoothedHalving scaled the blended loss"),
        (Silent, r"SmoothedSilent trains without calling compute_loss"),
    ],
)
def test_a_trainer_that_cannot_be_smoothed_says_so(
    tmp_path: Path, trainer_class: Any, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        make(tmp_path, segue.smooth(trainer_class)).train()


def test_a_loss_function_given_to_the_trainer_is_the_targets_alone(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        total = F.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        return total / num_items_in_batch

    weights = []
    for given in ({}, {"compute_loss_func": loss}):
        trainer = make(
            tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, **given
        )
        trainer.train()
        weights.append(trainer.model.lm_head.weight.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=2e-6)


def test_the_policy_raise_stops_at_a_non_finite_source(tmp_path: Path) -> None:
    source = Source(
        texts(20, seed=1), compute_loss=lambda model, batch: model(**batch).loss * math.nan
    )
    with pytest.raises(segue.NonFiniteLossError, match="the source loss is nan at step 0"):
        make(tmp_path, source=source, non_finite="raise").train()


def test_a_compiled_model_is_trained_alike(tmp_path: Path) -> None:
    examples = [{"text": f"w{i % 24} w1 w2 w3 <eos>"} for i in range(20)]  # of one length
    weights = []
    for compiled in (False, True):
        torch.compiler.reset()
        given = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        trainer = make(tmp_path, train_dataset=tokenized(examples), source=examples, **given)
        trainer.train()
        weights.append(trainer.model.lm_head.weight.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=2e-6)
