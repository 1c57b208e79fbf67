"""Runs the fast path as compiled by gcc's sanitizers, and fails if one of them has a word to say.

    python trials/sanitize/sanitize.py [address] [thread]

- AddressSanitizer, with UBSan: tests in memory, the core cases of the Autobahn testsuite, and the
  stress of stress.py, at the end of which it must have leaked nothing.
- ThreadSanitizer: the stress.

Only the extension is instrumented, not the interpreter that loads it, so the libraries of the
sanitizers are preloaded. ThreadSanitizer sees the locks of both, so it needs no suppressions.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from instrumented import ROOT, build, isMissing, library

MEMORY = [
    f"tests/memory/test_{name}.py"
    for name in ("fastpath", "ways", "deflate", "unsent", "tls_lent", "protocol", "properties")
]


def address(folder: Path) -> None:
    env = build(folder, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # libstdc++, because the sanitizer looks for what throws as it starts.
    libraries = ":".join(library(f"lib{name}.so") for name in ("asan", "ubsan", "stdc++"))
    options = {"UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONSAFEPATH": "1"}
    quick = {**env, **options, "ASAN_OPTIONS": f"log_path={folder}/report:detect_leaks=0"}
    # Python's own allocator hides from LeakSanitizer what Python's objects point to.
    thorough = {
        **quick,
        "ASAN_OPTIONS": f"log_path={folder}/report:detect_leaks=1",
        # The interpreter leaks: reports() tells whose a leak is. An error ends the process still.
        "LSAN_OPTIONS": "exitcode=0:abort_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    isLoaded(folder, {**quick, "LD_PRELOAD": libraries})
    run("trials/sanitize/stress.py", "15", env={**thorough, "SANITIZER": libraries})
    quick["LD_PRELOAD"] = libraries
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", *MEMORY, env=quick)
    run("trials/conformance/run.py", "core", env=quick)


def thread(folder: Path) -> None:
    env = build(folder, "-fsanitize=thread")
    options = {"TSAN_OPTIONS": f"log_path={folder}/report", "PYTHONSAFEPATH": "1"}
    tsan = library("libtsan.so")
    isLoaded(folder, {**env, **options, "LD_PRELOAD": tsan})
    run("trials/sanitize/stress.py", "30", env={**env, **options, "SANITIZER": tsan})


def isLoaded(folder: Path, env: dict[str, str]) -> None:
    """Fail unless it is this build that is tested: without one, all would pass, in Python."""
    code = "import echotwist.fastpath._loop as it; print(it.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.startswith(str(folder)), done.stdout + done.stderr


def run(*arguments: str, env: dict[str, str]) -> None:
    print(*arguments, flush=True)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, check=True, timeout=600)


def reports(folder: Path) -> list[str]:
    """What the sanitizers have written, without the interpreter's own leaks."""
    found = []
    for path in folder.glob("report.*"):
        text = path.read_text(errors="replace")
        if "LeakSanitizer" not in text:
            found.append(text)
        # One is the extension's if that is who called malloc().
        for leak in re.findall(r"^Direct leak.*?(?=^$)", text, re.DOTALL | re.MULTILINE):
            if re.search(r"#1 .*_loop", leak):
                found.append(leak)
    return found


def main(names: list[str]) -> None:
    if isMissing("gcc", "gcc"):
        return
    for check in (address, thread):
        if names and check.__name__ not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            failure = None
            try:
                check(Path(folder))
            except (subprocess.SubprocessError, AssertionError) as error:
                failure = error
            found = reports(Path(folder))
            if failure or found:
                print(*found, failure, sep="\n\n")
                raise SystemExit(f"{check.__name__}: failed, {len(found)} reports")
            print(f"{check.__name__}: nothing was reported", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
