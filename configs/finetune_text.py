"""Fine-tunes an imported text model, such as SmolLM2 or a Llama, on text or conversations.

    ringvision import smollm2 smollm2
    ringvision train finetune_text --data chat.jsonl --data.sources.0.field messages --init-from smollm2
    --out runs/chat

A line of chat.jsonl is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content":
"..."}]}: what the assistant says is learned, in the words of the model's own chat template, so that `ringvision chat
runs/chat/model` and `ringvision export runs/chat/model DIR --format hf` go on from there. Of files of text,
or records with a "text", every token is learned (leave --data.sources.0.field out).

Low-rank pairs beside the matrices of the layers are trained, and multiplied out in the model folder;
`--trainable all` trains everything, which takes four times the memory and wants a tenth of the rate.
"""

from ringvision.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, TextData

config = TrainConfig(
    name="finetune_text",
    out="runs/finetune_text",
    init_from="smollm2",
    data=DataConfig(sources=(TextData("chat.jsonl", chat_template="init_from"),), length=512, rows=4),
    steps=200,
    trainable="lora",
    optimizer=OptimizerConfig(lr=5e-4, min_lr=5e-5, warmup_steps=10, weight_decay=0.0),
    checkpoints=CheckpointConfig(every=100),
    evaluation=EvaluationConfig(every=0),
    log_every=10,
)
