"""Judge what is not judged yet and write the page: `python -m benchmarks.lab.corpus --help`."""

import argparse
import fnmatch
import queue
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.lab.corpus.matrix import variants
from benchmarks.lab.corpus.page import page
from benchmarks.lab.corpus.results import Result, Store, current_key
from benchmarks.lab.corpus.run import MATRIX, Judge, Task
from benchmarks.lab.corpus.sources import SOURCES, pictures
from benchmarks.lab.corpus.verdicts import FAULTS, VERDICTS

_PROCESSES = 2


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.corpus", description=__doc__)
    parser.add_argument("--only", default="*", help="pattern of ORIGIN/NAME, such as 'matrix/raw_*'; writes no page")
    parser.add_argument("--redo", action="store_true", help="judge again what is judged")
    parser.add_argument("--folder", type=Path, default=Path("build/corpus"), help="keeps pictures and results")
    parser.add_argument("--page", type=Path, default=Path("docs/corpus.md"), help="the page to write")
    return parser.parse_args(given)


def tasks(folder: Path, only: str) -> Iterator[Task]:
    for source in SOURCES:
        if fnmatch.fnmatch(source.project, only.partition("/")[0]):
            found = pictures(source, folder)
            root = folder / f"{source.project}-{source.version}"
            yield from (
                Task(source.project, name, path)
                for path in found
                if fnmatch.fnmatch(f"{source.project}/{(name := path.relative_to(root).as_posix())}", only)
            )
    if fnmatch.fnmatch(MATRIX, only.partition("/")[0]):
        for variant in variants():
            name = f"{variant.name}.tif"
            if fnmatch.fnmatch(f"{MATRIX}/{name}", only):
                yield Task(MATRIX, name, folder / MATRIX / name, variant)


def judge_all(due: list[Task], store: Store, folder: Path, key: str) -> None:
    """Judge pictures, each in one of two pairs of processes, and store each result at once."""
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in due:
        waiting.put(task)
    judged: queue.SimpleQueue[list[Result]] = queue.SimpleQueue()

    def work() -> None:
        judge = Judge(folder)
        try:
            while True:
                judged.put(judge.judge(waiting.get_nowait(), key))
        except queue.Empty:
            pass
        finally:
            judge.close()
            judged.put([])

    with ThreadPoolExecutor(_PROCESSES) as pool:
        working = [pool.submit(work) for _ in range(_PROCESSES)]
        for _ in working:
            while results := judged.get():
                for each in results:
                    store.add(each)
                    if each.verdict in FAULTS:
                        sys.stdout.write(f"{each.verdict}: {each.origin}/{each.name} ({each.reader}): {each.note}\n")
                        sys.stdout.flush()
        for each in working:
            each.result()


def main(given: list[str]) -> int:
    options = arguments(given)
    key = current_key()
    store = Store(options.folder / "results.jsonl", key)
    wanted = list(tasks(options.folder, options.only))
    done = set[tuple[str, str]]() if options.redo else {(origin, name) for origin, name, _ in store.results}
    judge_all([each for each in wanted if (each.origin, each.name) not in done], store, options.folder, key)
    names = {(each.origin, each.name) for each in wanted}
    shown = [each for each in store.results.values() if (each.origin, each.name) in names]
    counts = Counter(each.verdict for each in shown)
    sys.stdout.write("".join(f"{verdict:>16}: {counts[verdict]}\n" for verdict in VERDICTS))
    if options.only == "*":
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(shown), encoding="utf-8")
    return int(any(each.verdict in FAULTS for each in shown))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
