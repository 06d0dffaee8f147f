"""Fine-tune LoRA adapters with TRL and Segue, and print what was learnt and what was forgotten.

Run it with `python examples/trl_sft_lora.py`. The model is made on the spot; nothing is downloaded.
"""

import copy
import os
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

import segue

WORDS = ["<pad>", "<eos>", *map(str, range(40))]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def counting(step: int, seed: int) -> dict:
    draw = random.Random(seed)
    start = draw.randrange(15, 25)
    return {"text": " ".join(str(start + step * i) for i in range(draw.randint(4, 10)))}


source = [counting(1, seed) for seed in range(256)]  # what the model knows: counting up
target = [counting(-1, seed) for seed in range(256)]  # what it is to learn: counting down


def fit(trainer_class: type, model: LlamaForCausalLM, data: list, rate: float, **extra):
    args = SFTConfig(
        tempfile.mkdtemp(), max_steps=150, learning_rate=rate, save_strategy="no",
        use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    extra |= {"train_dataset": Dataset.from_list(data), "processing_class": tokenizer}
    trainer = trainer_class(model, args, **extra)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    held_out = [[counting(step, 1000 + i) for i in range(50)] for step in (-1, 1)]
    return [trainer.evaluate(Dataset.from_list(data))["eval_loss"] for data in held_out]


torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), num_attention_heads=2, **shape))
before = fit(SFTTrainer, model, source, rate=1e-2)
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
ours = {"source": source, "num_smoothing_steps": 0.5}
arms = {"hard switch": (SFTTrainer, {}), "smoothing": (segue.smooth(SFTTrainer), ours)}
for name, (cls, extra) in arms.items():
    after = fit(cls, copy.deepcopy(model), target, rate=2e-2, peft_config=lora, **extra)
    learnt, kept = (f"{old:.3f} to {new:.3f}" for old, new in zip(before, after, strict=True))
    print(f"{name}: target loss {learnt}, source loss {kept}")
