"""Fine-tune a tiny language model from text to chat with TRL, with and without Segue.

Run it with `python examples/transformers_sft.py`. The model is made on the spot; nothing is downloaded.
"""

import copy
import os
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

import segue

WORDS = ["<pad>", "<eos>", "<user>", "<assistant>", *map(str, range(40))]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
tokenizer.chat_template = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}{% endfor %}"
)


def up(draw: random.Random) -> dict:  # the source: plain text that counts up
    return {"text": " ".join(WORDS[4 + draw.randrange(30) :][: draw.randint(4, 10)])}


def down(draw: random.Random) -> dict:  # the target: a chat that counts down
    start = draw.randrange(10, 40)
    answer = " ".join(str(start - i) for i in range(1, draw.randint(3, 8)))
    turns = [{"role": "user", "content": str(start)}, {"role": "assistant", "content": answer}]
    return {"prompt": turns[:1], "completion": turns[1:]}


def fit(name: str, trainer_class: type, model: LlamaForCausalLM, make, rate: float, **extra):
    args = SFTConfig(
        tempfile.mkdtemp(), max_steps=120, learning_rate=rate, save_strategy="no",
        use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_list([make(random.Random(i)) for i in range(256)])
    trainer = trainer_class(model, args, train_dataset=data, processing_class=tokenizer, **extra)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    held_out = [[make(random.Random(1000 + i)) for i in range(50)] for make in (down, up)]
    target, source = (trainer.evaluate(Dataset.from_list(h))["eval_loss"] for h in held_out)
    print(f"{name}: target loss {target:.3f}, source loss {source:.3f}")


torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), num_attention_heads=2, **shape))
fit("before", SFTTrainer, model, up, rate=1e-2)
fit("hard switch", SFTTrainer, copy.deepcopy(model), down, rate=2e-3)
ours = {"source": [up(random.Random(i)) for i in range(256)], "num_smoothing_steps": 0.5}
fit("smoothing", segue.smooth(SFTTrainer), copy.deepcopy(model), down, rate=2e-3, **ours)
