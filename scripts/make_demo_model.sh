#!/usr/bin/env bash
# Makes what is shipped, from nothing: draws the world, trains the text tokenizer, the video tokenizer and the model, and measures them.
#
#   scripts/make_demo_model.sh [RUNS]        RUNS: where the work is kept (default runs/demo; the configs name that folder)
#
# Safe to stop at any moment and to start again: every part goes on where it was. On two cores: about ten hours, two of them for the scores of long videos (MODEL_CARD.md says
# what each part took). Needs .venv (make test).
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs/demo}
python=.venv/bin/python

# XLA's buffers come and go at every step; without this a third of the CPU time of training goes into page faults (glibc only; harmless elsewhere).
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4000000000:glibc.malloc.trim_threshold=8000000000:glibc.malloc.top_pad=268435456

say() { printf '\n--- %s\n' "$*"; }

say "videos of the world"
$python scripts/draw_world.py "$runs/held" --videos 500 --held-out
$python scripts/draw_world.py "$runs/videos" --videos 28000 --frames "$runs/frames.npy"

$python scripts/draw_world.py "$runs/colour-videos" --videos 16000 --first 28000 --more-colours

say "text tokenizer"
[ -f "$runs/text.model" ] || $python scripts/train_text_tokenizer.py "$runs/text.model"

say "video tokenizer"
.venv/bin/ringvision train-tokenizer configs/tokenizer_world16.py
$python scripts/ship.py "$runs/tokenizer/tokenizer" tokenizers/world-16

say "codes"
$python scripts/tokenize_world.py "$runs/held" "$runs/held-codes" --tokenizer tokenizers/world-16
$python scripts/tokenize_world.py "$runs/videos" "$runs/codes" --tokenizer tokenizers/world-16

$python scripts/tokenize_world.py "$runs/colour-videos" "$runs/colour-codes" --tokenizer tokenizers/world-16

say "model"
.venv/bin/ringvision train configs/demo.py --devices 2
.venv/bin/ringvision train configs/demo_finish.py --devices 2
.venv/bin/ringvision train configs/demo_colours.py --devices 2

say "the model, of an hour"
[ -d "$runs/long-start" ] || $python scripts/stretch_model.py "$runs/colours/model" "$runs/long-start"
.venv/bin/ringvision train configs/demo_long.py --devices 2
.venv/bin/ringvision train configs/demo_hour.py --devices 2
$python scripts/ship.py "$runs/colours/model" demos/model --knows-seconds 12
$python scripts/ship.py "$runs/hour/model" demos/hour

say "sample clips"
$python scripts/make_clips.py demos/clips

say "scores and cards"
.venv/bin/ringvision evaluate world --examples 800 --json > "$runs/world.json"
.venv/bin/ringvision evaluate needle --model demos/hour --out "$runs/needle" --json > "$runs/needle.json"
.venv/bin/ringvision evaluate world --model demos/hour --length 3600 --out "$runs/hours" --json > "$runs/hours.json"
$python scripts/write_cards.py "$runs"
