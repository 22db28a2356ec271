#!/usr/bin/env bash
# Classify reviews from the command line: the fields of the schema become columns.
# Run it again: what is answered is not asked again. OUTPUT may end in .csv, .jsonl or .parquet.
#
#     examples/classify_reviews.sh [OUTPUT]
set -euo pipefail
reviews="$(dirname "$0")/reviews.jsonl"
output="${1:-labelled.csv}"
model="${LLMFLOW_MODEL:-sim/demo}"
prompt="Classify this review of a {product}: {text}"
schema="sentiment: positive|negative|neutral, topics: list[str], score: float?"

llmflow plan "$reviews" --prompt "$prompt" --schema "$schema" --model "$model"
llmflow run "$reviews" --prompt "$prompt" --schema "$schema" --model "$model" --output "$output"

# One JSON object per line, for the next program of a pipe.
head -n 3 "$reviews" |
    llmflow run - --prompt "$prompt" --schema "$schema" --model "$model" --output - |
    python3 -c 'import json, sys
for line in sys.stdin:
    row = json.loads(line)
    print(row["id"], row["sentiment"], row["topics"])'
