"""One bilingual source a lesson, two notebooks: build, check, stamp, pull, run.
Used for every lesson; CONTRIBUTING.md shows the way round.

python notebooks/lessons.py build             notebooks and README tables from notebooks/source/
python notebooks/lessons.py check             every fault, with cause and remedy
python notebooks/lessons.py stamp SLUG        this translation was reviewed against today's English
python notebooks/lessons.py pull              edits made in JupyterLab back into the source
python notebooks/lessons.py run --profile fast   execute, keep the outputs
"""

import argparse
import sys
import tempfile
from pathlib import Path

from lessons_build import build
from lessons_check import check
from lessons_pull import pull, stamp
from lessons_register import Lessons, read_register
from lessons_run import run_lesson
from lessons_source import LANGS, LessonError


def build_command(lessons: Lessons, args: argparse.Namespace) -> int:
    """Write the notebooks of both languages and the README tables."""
    problems = build(lessons, args.lesson, force=args.force)
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"built {len(lessons.select(args.lesson)) - len(problems)} lessons in {' and '.join(LANGS)}")
    return 1 if problems else 0


def check_command(lessons: Lessons, args: argparse.Namespace) -> int:
    """Report every fault with file, cell, cause and remedy."""
    faults = check(lessons, args.lesson)
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(faults)} faults in {len(lessons.select(args.lesson))} lessons")
    return 1 if faults else 0


def stamp_command(lessons: Lessons, args: argparse.Namespace) -> int:
    """Record that translations were reviewed against today's English."""
    if bool(args.slug) == args.all or (args.all and not args.lesson):
        raise LessonError("stamp needs slugs, or --all together with --lesson NN")
    done = stamp(lessons, args.slug, args.lesson)
    print(*(done or ["every such translation has today's stamp already"]), sep="\n")
    return 0


def pull_command(lessons: Lessons, args: argparse.Namespace) -> int:
    """Bring edits made in the notebooks back into the sources."""
    edits = pull(lessons, args.lesson, partial=args.partial)
    for edit in edits:
        print(edit)
    conflicts = [edit for edit in edits if edit.verdict == "conflict"]
    n_taken = sum(edit.verdict == "take" for edit in edits)
    if conflicts and not args.partial:
        print(f"{len(conflicts)} conflicts: no source was written; settle them in the source, or pull --partial")
    else:
        print(f"pulled {n_taken} edits" + ("; now run lessons.py build" if n_taken else ""))
    return 1 if conflicts else 0


def run_command(lessons: Lessons, args: argparse.Namespace) -> int:
    """Execute notebooks one after another; fast keeps the outputs."""
    out = args.out or (lessons.folder if args.profile == "fast" else Path(tempfile.mkdtemp(prefix="lessons-")))
    failed = 0
    for entry in lessons.select(args.lesson):
        for lang in LANGS if args.lang == "both" else [args.lang]:
            result = run_lesson(lessons, entry, lang, profile=args.profile, out=out.resolve(), timeout=args.timeout)
            print(result, flush=True)
            failed += bool(result.failed_at)
    print(f"notebooks written below {out}" + (f"; {failed} failed" if failed else ""))
    return 1 if failed else 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="folder that holds notebooks/")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {}
    for command, function in COMMANDS.items():
        made[command] = commands.add_parser(command, parents=[common], help=function.__doc__)
        made[command].set_defaults(function=function)
        if command != "stamp":
            made[command].add_argument("lesson", nargs="*", help="ids or file names; all when left out")
    made["build"].add_argument("--force", action="store_true", help="drop edits made in the notebooks")
    made["pull"].add_argument("--partial", action="store_true", help="write what has no conflict")
    made["stamp"].add_argument("slug", nargs="*")
    made["stamp"].add_argument("--lesson", help="id or file name of the lesson")
    made["stamp"].add_argument("--all", action="store_true", help="every translation of the lesson")
    made["run"].add_argument("--profile", choices=["smoke", "fast"], default="fast")
    made["run"].add_argument("--lang", choices=[*LANGS, "both"], default="both")
    made["run"].add_argument("--out", type=Path, help="default: notebooks/ for fast, a temporary folder for smoke")
    made["run"].add_argument("--timeout", type=int, default=900, help="seconds that one cell may take")
    return parser


COMMANDS = {
    "build": build_command,
    "check": check_command,
    "stamp": stamp_command,
    "pull": pull_command,
    "run": run_command,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 for faults, 2 for what could not be started."""
    args = arguments().parse_args(argv)
    try:
        return args.function(read_register(args.root.resolve()), args)
    except LessonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
