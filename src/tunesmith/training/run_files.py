"""The names of what a run leaves in its folder, for all who write or read it."""

RUN_FILE = "run.json"
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
NOVELTY = "novelty.json"
