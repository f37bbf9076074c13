"""Fine-tunes an imported text model, such as SmolLM2 or a Llama, on conversations or text.

    ringvision import smollm2 smollm2
    ringvision train finetune_text --data chat.jsonl --data.sources.0.field messages --out runs/chat
    ringvision chat runs/chat/model

A line of chat.jsonl is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}: what
the assistant says is learned, as the model's own chat template writes it. Of files of text, or records with a
"text", every token is learned (leave --data.sources.0.field out). Another model: --init-from DIR.

Low-rank pairs beside the matrices of the layers are trained, and multiplied out in the model folder.
`--trainable all` trains everything: that takes four times the memory, and a tenth of the rate is enough.
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
