#!/usr/bin/env bash
# As a CI job would: train, store labels, distil, gate on the result, read a figure.
# Usage: distill.sh [DATA] [OUT]          Exit code 5 if the student misses its gate.
set -euo pipefail
data="${1:-digits}"
out="${2:-runs/ci}"
gate="${GATE:-test_top1>=0.85}"

distill teacher train --data "$data" --model mlp_64x1 --epochs 10 -b 32 --lr 0.1 --out "$out/teacher-a" --resume
distill teacher train --data "$data" --model mlp_64x2 --epochs 10 -b 32 --lr 0.1 --seed 1 \
  --out "$out/teacher-b" --resume
distill cache-soft-labels --teachers "$out/teacher-a,$out/teacher-b" --views 2 --out "$out/labels"
# --resume goes on after a kill and starts where there is nothing to resume.
distill student --teachers "$out/labels" --mode random --model mlp_32x1 --epochs 15 \
  -b 32 --lr 0.1 \
  --out "$out/student" --resume --require "$gate" --json >"$out/result.json"
python -c "
import json, sys
result = json.load(open(sys.argv[1]))
print(f\"{result['test_errors']} errors of {result['test_samples']}\")
" "$out/result.json"
