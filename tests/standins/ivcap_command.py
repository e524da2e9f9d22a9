"""A stand-in of the platform's command `ivcap`: `python ivcap_command.py STATE ARGUMENTS...`.

It does what Poetry's plugin asks of that command, looks at what it is given, and refuses everything else. STATE is a
folder: `address` and `token` of the platform, `images` that the stand-in of `docker` has built, `pushed` ones, and
`aspects`.
"""

import json
import sys
from pathlib import Path

ACCOUNT = "urn:ivcap:account:0b6f4d5e-8a21-4c3f-9d70-5e1a2b3c4d5e"
REGISTRY = "registry.standin.example/0b6f4d5e-8a21-4c3f-9d70-5e1a2b3c4d5e"


def _push(state: Path, image: str) -> None:
    if not (state / "images" / image).is_file():
        sys.exit(f"ivcap: no such image: {image}")
    (state / "pushed").mkdir(exist_ok=True)
    (state / "pushed" / image).touch()
    print(f" Pushing {image}\n{REGISTRY.rpartition('/')[2]}/{image} pushed")


def _list(state: Path, image: str) -> None:
    if (state / "pushed" / image).is_file():
        print(f"{REGISTRY}/{image}")


def _update(state: Path, policy: str, entity: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    aspect = json.loads(text)
    if not (policy.startswith("urn:ivcap:policy:") and entity.startswith("urn:ivcap:service:")):
        sys.exit(f"ivcap: no policy or no service: {policy} {entity}")
    for placeholder in ("#DOCKER_IMG#", "#SERVICE_ID#", "#ENTRYPOINT#", "[hidden]"):
        if placeholder in text:
            sys.exit(f"ivcap: {placeholder} is left in the aspect")
    (state / "aspects").mkdir(exist_ok=True)
    (state / "aspects" / aspect["$schema"]).write_text(json.dumps({"entity": entity, "content": aspect}))
    print(json.dumps({"id": "urn:ivcap:aspect:1"}))


def _main(state: Path, arguments: list[str]) -> None:
    match [each for each in arguments if each != "--silent"]:
        case ["context", "get", "account-id"]:
            print(ACCOUNT)
        case ["context", "get", "url"]:
            print((state / "address").read_text())
        case ["context", "get", "access-token", "--refresh-token"]:
            print((state / "token").read_text())
        case ["package", "push", "--force", "--local", image]:
            _push(state, image)
        case ["package", "list", image]:
            _list(state, image)
        case ["aspect", "update", "--policy", policy, entity, "-f", path]:
            _update(state, policy, entity, Path(path))
        case _:
            sys.exit(f"ivcap: not known to the stand-in: {arguments}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
