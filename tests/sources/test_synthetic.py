import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segue
from segue.sources.distillation import Distillation
from segue.sources.synthetic import synthetic_text

VOCABULARY, BOS, EOS = 11, 1, 2


def gpt2() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=BOS,
        eos_token_id=EOS, initializer_range=0.5,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


class Bigram(nn.Module):
    """A language model of one table, without ``generate``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.dropout(self.table(input_ids))
        return logits


def prompts() -> Tensor:
    return torch.tensor([[3], [4]])


@pytest.mark.parametrize("make", [gpt2, Bigram])
def test_text_follows_the_seed_alone(make: Any) -> None:
    settings: dict[str, Any] = {"num_examples": 5, "num_tokens": 6, "batch_size": 2}
    first = synthetic_text(make(), **settings, prompts=prompts(), seed=1)
    torch.manual_seed(99)
    second = synthetic_text(make().train(), **settings, prompts=prompts(), seed=1)
    other = synthetic_text(make(), **settings, prompts=prompts(), seed=2)
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert not torch.equal(first["input_ids"], other["input_ids"])
    assert first["input_ids"].shape == first["labels"].shape == (5, 7)
    assert first["input_ids"][:, 0].tolist() == [3, 4, 3, 4, 3]
    assert (first["labels"][:, 0] == -100).all()
    rows = {tuple(row) for row in first["input_ids"].tolist()}
    assert len(rows) == 5  # batches do not repeat each other


@pytest.mark.parametrize("make", [gpt2, Bigram])
def test_modes_and_random_states_are_what_they_were(make: Any) -> None:
    model = make().train()
    model.get_submodule("transformer.drop" if make is gpt2 else "dropout").eval()

    def everything() -> Any:
        return (
            [module.training for module in model.modules()],
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
            random.getstate(),
            str(getattr(model, "generation_config", None)),
        )

    before = everything()
    synthetic_text(model, num_examples=2, num_tokens=3, prompts=prompts())
    assert everything() == before
    with pytest.raises((RuntimeError, IndexError)):
        synthetic_text(model, num_examples=2, num_tokens=3, prompts=torch.tensor([[999]]))
    assert everything() == before


@pytest.mark.parametrize("make", [gpt2, Bigram])
def test_tokens_come_from_the_distribution_of_the_model(make: Any) -> None:
    model = make()
    if make is gpt2:  # settings that would make the text another
        model.generation_config.top_k = 2
        model.generation_config.repetition_penalty = 3.0
        model.generation_config.min_new_tokens = 2
    text = synthetic_text(
        model, num_examples=4000, num_tokens=1, batch_size=4000, prompts=prompts()[:1]
    )
    with torch.no_grad():
        output = model.eval()(prompts()[:1])
    expected = getattr(output, "logits", output)[0, -1].softmax(dim=-1)
    found = torch.bincount(text["input_ids"][:, 1], minlength=len(expected)) / 4000
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.03)
    assert expected.max() > 0.15  # not a uniform one, so that this says something


def test_after_the_end_of_a_text_nothing_counts() -> None:
    text = synthetic_text(
        gpt2(), num_examples=64, num_tokens=20, batch_size=64, eos_token_id=7, pad_token_id=0
    )
    ids, mask, labels = (text[name] for name in ("input_ids", "attention_mask", "labels"))
    assert ids.shape == (64, 21)
    assert (ids[:, 0] == BOS).all()
    ended = [row for row in range(64) if 7 in ids[row, 1:].tolist()]
    assert len(ended) > 10
    for row in range(64):
        end = ids[row].tolist().index(7) + 1 if row in ended else 21
        assert mask[row].tolist() == [1] * end + [0] * (21 - end)
        assert labels[row, 1:end].tolist() == ids[row, 1:end].tolist()  # the end itself counts
        assert set(labels[row, end:].tolist()) <= {-100}
        assert set(ids[row, end:].tolist()) <= {0}


def test_without_an_end_token_every_text_has_its_full_length() -> None:
    for model in (gpt2(), Bigram()):
        text = synthetic_text(
            model, num_examples=40, num_tokens=12, prompts=prompts(), eos_token_id=-1
        )
        assert text["attention_mask"].all()
        assert (text["labels"][:, 1:] == text["input_ids"][:, 1:]).all()
    assert (
        EOS in synthetic_text(gpt2(), num_examples=40, num_tokens=12, eos_token_id=-1)["input_ids"]
    )


def test_a_bank_of_synthetic_text_is_a_source_term() -> None:
    model = gpt2()
    text = synthetic_text(model, num_examples=12, num_tokens=6, seed=3)
    replay = segue.Replay(text, num_examples=None, batch_size=4)
    distillation = Distillation(model, scale=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    smoothing = segue.Smoothing(
        segue.linear_decay(3), optimizer=optimizer, sources=[replay, distillation]
    )
    model.train()

    def source_loss() -> Tensor:
        batch = next(replay)
        loss: Tensor = model(**batch).loss
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        return loss + distillation(inputs, mask=batch["attention_mask"])

    def target_loss() -> Tensor:
        loss: Tensor = model(input_ids=torch.full((2, 4), 5), labels=torch.full((2, 4), 5)).loss
        return loss

    before = target_loss().item()
    for _ in range(6):
        smoothing.mix(source=source_loss, target=target_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert target_loss().item() < before
    assert replay.released
    assert distillation.released


def test_replaying_its_own_text_keeps_a_model_near_what_it_was() -> None:
    source = Bigram()
    with torch.no_grad():
        source.table.weight.mul_(2.0)
    source.dropout.p = 0.0
    text = synthetic_text(source, num_examples=200, num_tokens=8, prompts=torch.arange(5)[:, None])
    before = source.table.weight.detach().log_softmax(dim=1)

    def drift(use_replay: bool) -> float:
        model = Bigram()
        model.load_state_dict(source.state_dict())
        model.dropout.p = 0.0
        replay = segue.Replay(text, num_examples=None, batch_size=64, seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        smoothing = segue.Smoothing(
            segue.constant(0.8) if use_replay else segue.hard_switch(), optimizer=optimizer
        )

        def loss_of(ids: Tensor, labels: Tensor) -> Tensor:
            logits = model(ids[:, :-1]).flatten(0, 1)
            return nn.functional.cross_entropy(logits, labels[:, 1:].flatten())

        def source_loss() -> Tensor:
            batch = next(replay)
            return loss_of(batch["input_ids"], batch["labels"])

        target = torch.tensor([[0, 1, 2, 3, 4, 0]])
        for _ in range(60):
            smoothing.mix(source=source_loss, target=lambda: loss_of(target, target)).backward()
            optimizer.step()
            optimizer.zero_grad()
        after = model.table.weight.detach().log_softmax(dim=1)
        return (before.exp() * (before - after)).sum(dim=1).mean().item()

    assert drift(use_replay=True) < 0.5 * drift(use_replay=False)


def test_wrong_arguments_are_named() -> None:
    model = Bigram()
    with pytest.raises(ValueError, match="prompts must be given for a model without bos_token_id"):
        synthetic_text(model, num_examples=1, num_tokens=1)
    with pytest.raises(
        ValueError, match=r"prompts must have shape \(prompts, length\), got \(3,\)"
    ):
        synthetic_text(model, num_examples=1, num_tokens=1, prompts=torch.tensor([1, 2, 3]))
    with pytest.raises(
        TypeError, match=r"prompts must be a tensor of token ids, got torch.float32"
    ):
        synthetic_text(model, num_examples=1, num_tokens=1, prompts=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        synthetic_text(model, num_examples=1, num_tokens=1, prompts=prompts(), temperature=0.0)
    with pytest.raises(ValueError, match="num_tokens must be >= 1, got 0"):
        synthetic_text(model, num_examples=1, num_tokens=0, prompts=prompts())
    with pytest.raises(TypeError, match=r"logits of shape \(batch, length, vocabulary\), got \(2"):
        synthetic_text(nn.Flatten(), num_examples=2, num_tokens=1, prompts=prompts())
