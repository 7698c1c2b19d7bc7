"""lm-evaluation-harness against a server: `harness.py ADDRESS MODEL TOKENIZER TASK LIMIT FOLDER`.

TASK is a file of items with `query`, `choices` and `gold`, as `impasto eval tasks` reads. Prints the accuracies and the
log-likelihood of each choice as JSON.
"""

import json
import os
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("HF_HOME", os.path.join(sys.argv[6], "cache"))

import lm_eval
from lm_eval.tasks import TaskManager

address, model, tokenizer, task, limit, folder = sys.argv[1:]
name = "task_" + os.path.basename(task).split(".")[0]
with open(os.path.join(folder, name + ".yaml"), "w") as file:
    file.write(f"""task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {task}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
""")
model_args = {
    "model": model, "base_url": f"{address}/v1/completions", "tokenizer_backend": "huggingface", "tokenizer": tokenizer,
    "num_concurrent": 4, "max_retries": 1, "max_length": 2048,
}
results = lm_eval.simple_evaluate(
    model="local-completions", model_args=model_args, tasks=[name], limit=int(limit), batch_size=4, bootstrap_iters=0,
    task_manager=TaskManager(include_path=folder, include_defaults=False))
metrics = results["results"][name]
samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
print(json.dumps({
    "acc": metrics["acc,none"], "acc_norm": metrics["acc_norm,none"],
    "items": [[float(response[0][0]) for response in sample["resps"]] for sample in samples],
}))
