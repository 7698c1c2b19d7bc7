#!/usr/bin/env python3
"""Score a model with lm-evaluation-harness on local tasks, and compare two models item by item.

    evaluate.py run --data DATA --tasks arc_easy,piqa --server http://127.0.0.1:8080 --model NAME --tokenizer FOLDER -o small.json
    evaluate.py run --data DATA --tasks arc_easy,piqa --hf FOLDER -o reference.json
    evaluate.py compare reference.json small.json [--promise 0.5]

`run` scores a model of `impasto serve`, or a folder that transformers opens (with Impasto's Python package also a folder of an .impasto
file). DATA holds TASK.jsonl for each task; the files in tasks/ say with which fields.

`compare` prints, for each task and measure, the paired difference in points with its standard error, and where items have a `subject`, a
`length` or a `label`, the same for each of their values. With --promise X it says whether the loss is at most X points (one-sided, 95%):
kept, broken, or how many items would decide it. It exits with status 1 if a promise is broken, or if the files do not have the same items.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from pathlib import Path

TASKS = Path(__file__).resolve().parent / "tasks"
NAMES = sorted(path.stem.removeprefix("local_") for path in TASKS.glob("local_*.yaml"))
GROUPS = ("subject", "length", "label")
ONE_SIDED_95 = 1.645
AROUND_A_NEEDLE = 64
"""Tokens of the question and the answer, which come after a context."""


def language_model(options):
    """The name and the arguments of a model of the harness."""
    if options.server:
        return "local-completions", {
            "model": options.model, "base_url": f"{options.server.rstrip('/')}/v1/completions", "tokenizer_backend": "huggingface",
            "tokenizer": str(options.tokenizer), "num_concurrent": 4, "max_retries": 1, "max_length": options.max_length,
        }
    try:
        import impasto.transformers  # noqa: F401  teaches transformers to open folders of .impasto files
    except ModuleNotFoundError as error:
        if error.name != "impasto":
            raise
    return "hf", {"pretrained": str(options.hf), "dtype": options.dtype, "device": "cpu", "max_length": options.max_length}


def digest(item):
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]


def sample(raw, measures):
    """What is kept of an item: its hash, its groups, its measures and the log-likelihoods of its choices, or the answer."""
    item = {"item": digest(raw["doc"]), "measures": {name: float(raw[name]) for name in measures}}
    item["groups"] = {name: str(raw["doc"][name]) for name in GROUPS if name in raw["doc"]}
    first = raw["resps"][0][0]
    if isinstance(first, str):
        item["answer"] = first
    else:
        item["log_likelihoods"] = [float(response[0][0]) for response in raw["resps"]]
    return item


def check_contexts(options):
    """Ends the program if the harness would cut the beginning of a context away, and a needle with it."""
    if "needle" not in options.tasks:
        return
    lines = (options.data / "needle.jsonl").read_text(encoding="utf-8").splitlines()
    longest = max((json.loads(line)["length"] for line in lines if line.strip()), default=0)
    if longest + AROUND_A_NEEDLE > options.max_length:
        sys.exit(f"needle.jsonl: contexts of {longest} tokens need --max-length {longest + AROUND_A_NEEDLE}, and a model with as long a context")


def score(options):
    """Runs the harness. Returns {task: [sample]}."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import lm_eval
    from lm_eval.tasks import TaskManager

    for task in options.tasks:
        if not (options.data / f"{task}.jsonl").is_file():
            sys.exit(f"{options.data / task}.jsonl: no such file; tasks/local_{task}.yaml says which fields it has")
    check_contexts(options)
    model, arguments = language_model(options)
    os.chdir(options.data)  # the tasks name their files without a folder
    results = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[f"local_{task}" for task in options.tasks], limit=options.limit, batch_size=options.batch,
        bootstrap_iters=0, log_samples=True, task_manager=TaskManager(include_path=str(TASKS), include_defaults=False))
    scored = {}
    for task in options.tasks:
        raws = sorted(results["samples"][f"local_{task}"], key=lambda raw: raw["doc_id"])
        measures = [name for name in ("acc", "acc_norm") if name in raws[0]]
        scored[task] = [sample(raw, measures) for raw in raws]
    return scored


def mean(values):
    """The mean and its standard error."""
    value = sum(values) / len(values)
    if len(values) < 2:
        return value, 0.0
    return value, math.sqrt(sum((x - value) ** 2 for x in values) / (len(values) - 1) / len(values))


def run(options):
    for name in ("data", "output", "tokenizer", "hf"):
        path = getattr(options, name)
        setattr(options, name, path and path.resolve())
    scored = score(options)
    text = json.dumps({"model": str(options.hf or options.model), "tasks": scored}, indent=1)
    partial = options.output.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.rename(options.output)
    for task, samples in scored.items():
        for name in samples[0]["measures"]:
            value, error = mean([s["measures"][name] for s in samples])
            print(f"{task:12} {name:9} {100 * value:6.1f} +- {100 * error:.1f}  ({len(samples)} items)")


def verdict(value, error, items, promise):
    """What can be said of a promise. `value` and `error` are in points; a loss is negative."""
    if value == 0 and error == 0:
        # No item differs. If a share of `promise` points did, at least one of so many items would, with 95%.
        needed = math.ceil(-100 * math.log(0.05) / promise) if promise > 0 else math.inf
        return "kept" if items >= needed else f"undecided; about {needed} items would decide it if the difference stays"
    if value - ONE_SIDED_95 * error > -promise:
        return "kept"
    if value + ONE_SIDED_95 * error < -promise:
        return "broken"
    if value <= -promise or error == 0:
        return "undecided"
    return f"undecided; about {math.ceil(items * (ONE_SIDED_95 * error / (value + promise)) ** 2)} items would decide it if the difference stays"


def differences(reference, model, tasks):
    """Yields (task, group, measure, reference's value, differences of items)."""
    for task in tasks:
        pairs = list(zip(reference[task], model[task], strict=True))
        groups = {"": pairs}
        for name in GROUPS:
            for pair in pairs:
                if name in pair[0]["groups"]:
                    groups.setdefault(f"{name} {pair[0]['groups'][name]}", []).append(pair)
        for group, members in groups.items():
            for measure in pairs[0][0]["measures"]:
                values = [(a["measures"][measure], b["measures"][measure]) for a, b in members]
                yield task, group, measure, mean([a for a, _ in values])[0], [b - a for a, b in values]


def compare(options):
    reference, model = (json.loads(path.read_text())["tasks"] for path in (options.reference, options.model))
    tasks = [task for task in reference if task in model]
    for task in tasks:
        if [s["item"] for s in reference[task]] != [s["item"] for s in model[task]]:
            sys.exit(f"{options.model}: {task} has other items than in {options.reference}")
    if not tasks:
        sys.exit(f"{options.model}: no task of {options.reference}")
    for task in sorted(reference.keys() ^ model.keys()):
        print(f"{task}: not compared, since only {options.reference if task in reference else options.model} has it", file=sys.stderr)
    broken = False
    for task, group, measure, value, changes in differences(reference, model, tasks):
        change, error = (100 * x for x in mean(changes))
        line = f"{task:12} {group:24} {measure:9} {100 * value:6.1f} -> {100 * value + change:6.1f}  {change:+6.2f} +- {error:.2f}  ({len(changes)} items)"
        if options.promise is not None and not group:
            says = verdict(change, error, len(changes), options.promise)
            broken |= says == "broken"
            line += f"  loss of at most {options.promise} points: {says}"
        print(line)
    return int(broken)


def listed(text):
    tasks = text.split(",")
    unknown = [task for task in tasks if task not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no task {unknown[0]!r}; there are {', '.join(NAMES)}")
    return tasks


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="score a model")
    one.add_argument("--data", type=Path, required=True, help="folder of TASK.jsonl")
    one.add_argument("--tasks", type=listed, required=True, help="with commas: " + ", ".join(NAMES))
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--server", help="address of impasto serve, such as http://127.0.0.1:8080")
    which.add_argument("--hf", type=Path, help="folder that transformers opens")
    one.add_argument("--model", help="the model's name at the server")
    one.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, for a server")
    one.add_argument("--dtype", default="float32", help="of weights in transformers")
    one.add_argument("--limit", type=int, help="only the first N items of each task")
    one.add_argument("--batch", type=int, default=4)
    one.add_argument("--max-length", type=int, default=2048, help="tokens of a prompt and its answer")
    one.add_argument("-o", "--output", type=Path, required=True)
    two = commands.add_parser("compare", help="compare two models")
    two.add_argument("reference", type=Path)
    two.add_argument("model", type=Path)
    two.add_argument("--promise", type=float, metavar="POINTS", help="the loss that was promised at most")
    options = parser.parse_args()
    if options.command == "run" and options.server and not (options.model and options.tokenizer):
        parser.error("--server needs --model and --tokenizer")
    return options


if __name__ == "__main__":
    OPTIONS = arguments()
    sys.exit({"run": run, "compare": compare}[OPTIONS.command](OPTIONS))
