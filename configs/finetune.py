"""Fine-tunes the shipped model, or another one, on somebody's own videos.

    ringvision tokenize videos.csv --out tokens --variants 12     # path,caption  and, if any, question,answer
    ringvision train finetune --data tokens --out runs/finetune

400 steps of about 0.7 seconds of CPU time each. scripts/worked_example.py measures it on clips with a colour
whose name the model had never read; docs/guide.md has the scores ("Train on your own videos").

Of few videos a model soon knows every one by its background. So it reads altered copies of them
(`--variants`); new words and codes are learned by their embeddings, whose rate is high, while that of the
layers is low; and a question is asked only where its answer was not said in one before it. Every token of a
new word counts as much as one of a known word, though it is spelt in several. Part of what is read is
`demos/replay`, videos of the world that the model comes from, so that it does not forget what it knew.

The shipped model knows no English: from captions alone it would learn to caption, not that the same words
answer questions. `caption_questions` says which of its own questions a caption answers; for other words and
other questions change them, or give questions and answers in the manifest. For another model (`--init-from`)
leave the replay out (`--data.sources.1.weight 0`), or name videos that it was trained on.
"""

from ringvision import shipped
from ringvision.config import CheckpointConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import CaptionQuestion, DataConfig, TokenizedData, WorldData

SHAPE = r"(?P<shape>circle|square|triangle|cross)"
# Any word may be a colour but those that stand before a shape and are none.
NO_COLOURS = (
    "a|an|the|this|that|its|one|two|three|some|another|same|other|single|small|big|large|little|tiny|huge|"
    "moving|plain|solid|coloured|colored"
)
# ... or behind one: "the square is shown", "is moving", "is at the top".
BEHIND = "at|on|in|not|then|also|there|here|still|stationary|shown|seen|visible|located|placed"
COLOUR = rf"\b(?!(?:{NO_COLOURS})\b)(?P<colour>[^\W\d_]+)(?:[- ]colou?red)?"
COLOUR_BEHIND = rf"(?!(?:{NO_COLOURS}|{BEHIND}|\w+ing)\b)(?P<colour>[^\W\d_]+)\b"
SAME_THING = r"(?:(?!circle|square|triangle|cross)[^.;,])*?"
MOVES = r"\b(?:mov|go|went|slid|drift|travel|fl[iyeo]|head|glid|shift|pass|cross|run|ran)\w*\b"
DIRECTION = r"(?<!from )(?<!from the )(?<!on the )\b(?P<direction>left|right|up|down)"

COLOUR_OF = (
    rf"{COLOUR} {SHAPE}\b",
    rf"{SHAPE} (?:that |which )?(?:is|was|in|of) (?:colou?red )?{COLOUR_BEHIND}",
)
MOTION_OF = rf"{COLOUR} {SHAPE}\b{SAME_THING}{MOVES}{SAME_THING}{DIRECTION}"

CAPTION_QUESTIONS = (
    *(
        CaptionQuestion(form, question, "{colour}")
        for form in COLOUR_OF
        for question in (
            "What colour was the {shape}?",
            "What colour is the {shape}?",
            "Which colour did the {shape} have?",
        )
    ),
    *(
        CaptionQuestion(form, question, "{shape}")
        for form in COLOUR_OF
        for question in ("What shape was the {colour} thing?", "Which shape did the {colour} thing have?")
    ),
    CaptionQuestion(MOTION_OF, "Which way did the {colour} {shape} move?", "{direction}"),
    CaptionQuestion(MOTION_OF, "In which direction did the {colour} {shape} go?", "{direction}"),
)

config = TrainConfig(
    name="finetune",
    out="runs/finetune",
    init_from=str(shipped.folder("demos") / "model"),
    data=DataConfig(
        sources=(
            TokenizedData(
                folder="tokens",
                weight=3,
                turns_min=4,
                turns_max=4,
                turns_more=False,
                turns_apart=True,
                answer_weight=3.0,
                caption_questions=CAPTION_QUESTIONS,
            ),
            WorldData(
                folder=str(shipped.folder("demos") / "replay"),
                weight=2,
                turns_max=3,
                turns_more=False,
                answer_weight=3.0,
            ),
        ),
        length=512,
        rows=2,
    ),
    steps=400,
    optimizer=OptimizerConfig(
        kind="muon", muon_lr=1e-4, lr=4e-3, min_lr=1e-4, warmup_steps=10, weight_decay=0.0, ema=0.98
    ),
    checkpoints=CheckpointConfig(every=100),
    log_every=10,
)
