"""The peer of training.py: sentence-transformers' trainer over the same two text towers, in an interpreter that has it.

    python training_peer.py '{"folder": …, "steps": …, "batch": …, "workers": …, …}'

The towers are the product's own modules, wrapped as the library's documentation says ("Creating Custom Models"), each behind a
route of a `Router`; texts are tokenised by its collator, in the training process or in worker processes, and padded to the longest
of the batch. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    __version__,
    util,
)
from sentence_transformers.base.modules import InputModule, Router
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tokenizers import Tokenizer
from transformers import TrainerCallback

from smar_model.network.model import INITIAL_SCALE
from smar_model.training.model_files import load_model

ROUTES = {"anchor": "query", "positive": "document"}
TOLERANCE = 0.02
"""By how much the tokens of a pair may differ: words that were cut in the middle are cut anew."""


class Tower(InputModule):
    """A text tower and its projection: texts to unit vectors."""

    def __init__(self, tower: torch.nn.Module, projection: torch.nn.Module, tokenizer: Path, length: int) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(pad_id=0, pad_token="<pad>")

    def preprocess(self, inputs: list[str], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer.encode_batch_fast(inputs, add_special_tokens=False)
        return {"input_ids": torch.tensor([e.ids for e in encoded])}

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        ids = features["input_ids"]
        features["sentence_embedding"] = self.projection(*self.tower(ids, torch.zeros_like(ids)))
        return features

    def get_embedding_dimension(self) -> int:
        return self.projection.linear.out_features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)


class Clock(TrainerCallback):
    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.marks = first, last, {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (self.first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks[state.global_step] = time.perf_counter(), time.process_time()


def train(task: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    folder = Path(task["folder"])
    towers = load_model(folder / "model")
    tokens, shape = folder / "model" / "tokenizer.json", towers.shape
    router = Router.for_query_document(
        query_modules=[Tower(towers.query_tower, towers.query_projection, tokens, shape.query_length)],
        document_modules=[Tower(towers.item_text_tower, towers.text_projection, tokens, shape.item_length)],
    )
    model = SentenceTransformer(modules=[router])
    pairs = datasets.Dataset.from_parquet(str(folder / "pairs.parquet"))
    tokens_a_pair = sum(_tokens(router.sub_modules[route][0], pairs[column]) for column, route in ROUTES.items())
    tokens_a_pair /= len(pairs)
    if abs(tokens_a_pair / task["tokens_a_pair"] - 1) > TOLERANCE:
        raise RuntimeError(
            f"{tokens_a_pair:.2f} tokens a pair, ours are {task['tokens_a_pair']:.2f}: not the same work"
        )
    clock = Clock(task["warm_up"], task["steps"] - 1)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=task["batch"],
            max_steps=task["steps"],
            router_mapping=ROUTES,
            learning_rate=task["learning_rate"],
            warmup_steps=task["warmup_share"],
            lr_scheduler_type="cosine",
            weight_decay=task["weight_decay"],
            adam_beta2=0.98,
            max_grad_norm=task["gradient_norm"],
            optim="adamw_torch_fused",
            bf16=task["precision"] == "bf16",
            dataloader_num_workers=task["workers"],
            dataloader_persistent_workers=task["workers"] > 0,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=pairs,
        loss=MultipleNegativesRankingLoss(
            model,
            scale=INITIAL_SCALE,
            similarity_fct=util.dot_score,  # the towers' vectors are unit vectors already
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        ),
        callbacks=[clock],
    )
    trainer.train()
    (began, cpu_began), (ended, cpu_ended) = clock.marks[clock.first], clock.marks[clock.last]
    trained = (clock.last - clock.first) * task["batch"]
    return {
        "pairs_per_second": trained / (ended - began),
        "cpu_ms_a_pair": 1000 * (cpu_ended - cpu_began) / trained,
        "tokens_a_pair": tokens_a_pair,
        "version": __version__,
    }


def _tokens(tower: Tower, texts: list[str]) -> int:
    encoded = tower.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return sum(sum(i != 0 for i in e.ids) for e in encoded)


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
