"""A stand-in of the command `docker`: `python docker_command.py STATE ARGUMENTS...`.

It looks at what Poetry's plugin gives it. An image is a record of how it would be built; a container is the entry point
of its Dockerfile, run with the files that the image would hold and no other variables than those of the image and of
`--env`. STATE is a folder, in which `images` holds the records.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path


def _build(state: Path, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="docker buildx build", allow_abbrev=False)
    parser.add_argument("-t", "--tag", required=True)
    parser.add_argument("--platform", required=True, choices=["linux/amd64"])
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("-f", "--file", required=True)
    parser.add_argument("--load", action="store_true", required=True)
    parser.add_argument("context", type=Path)
    given = parser.parse_args(arguments)
    dockerfile = Path(given.file).read_text(encoding="utf-8")
    values = dict(each.split("=", 1) for each in given.build_arg)
    unknown = values.keys() - set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    if unknown:
        sys.exit(f"docker: build arguments that {given.file} does not take: {sorted(unknown)}")
    if not re.fullmatch(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*:[\w.-]+", given.tag):
        sys.exit(f"docker: invalid reference: {given.tag}")
    record = {"dockerfile": given.file, "arguments": values, "context": str(given.context.resolve(strict=True))}
    (state / "images").mkdir(exist_ok=True)
    (state / "images" / given.tag).write_text(json.dumps(record))


def _run(state: Path, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="docker run", allow_abbrev=False)
    parser.add_argument("--rm", action="store_true", required=True)
    parser.add_argument("--gpus", choices=["all"])
    parser.add_argument("--platform", required=True, choices=["linux/amd64"])
    parser.add_argument("-e", "--env", action="append", default=[])
    parser.add_argument("-v", "--volume", required=True)
    parser.add_argument("-p", "--publish")
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    image = json.loads((state / "images" / given.image).read_text())
    dockerfile = (Path(image["context"]) / image["dockerfile"]).read_text(encoding="utf-8")
    host, _, inside = given.volume.partition(":")
    [workdir] = set(re.findall(r"^WORKDIR (/data)$", dockerfile, re.MULTILINE))
    if inside != workdir:
        sys.exit(f"docker: the stand-in mounts {workdir} alone, not {inside}")
    interpreter, script = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)[-1])
    of_image = dict(re.findall(r"(PSEG_SERVICE_DEVICE)=(\w+)", dockerfile))
    environment = {
        **of_image,
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        # Stands for /cache and /tmp, which the image has.
        "HOME": str(state),
        "TMPDIR": str(state),
        **dict(each.split("=", 1) for each in given.env),
    }
    if given.publish is not None and not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", given.publish):
        sys.exit(f"docker: {given.publish} lets others than this machine in, or leads to another port")
    command = [interpreter, script.replace("/app", image["context"], 1), *given.arguments]
    with subprocess.Popen(command, cwd=host, env=environment) as container:
        (state / "container").write_text(str(container.pid))
    return container.returncode


def _main(state: Path, arguments: list[str]) -> int:
    match arguments:
        case ["buildx", "build", *options]:
            _build(state, options)
        case ["inspect", "--format='{{.Size}}'", image] if (state / "images" / image).is_file():
            print("'1730000000'")
        case ["run", *options]:
            return _run(state, options)
        case _:
            sys.exit(f"docker: not known to the stand-in: {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
