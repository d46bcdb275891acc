"""Calls functions of an emulated module with arguments from files: run by sanitize.py, in a process of a sanitizer.

python sanitized.py <module> <folder> <schedule>; nothing but Python's own library, whose memory the sanitizers know.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]


def main(module: str, folder: str, schedule: str) -> None:
    spec = importlib.util.spec_from_file_location("_cuda", module)
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    kernels.set_schedule(json.loads(schedule))
    calls = json.loads((Path(folder) / "calls.json").read_text())
    for call in calls:
        placed: dict[str, int] = {}
        arguments = []
        for a in call["arguments"]:
            if isinstance(a, dict):
                if a["file"] not in placed:
                    placed[a["file"]] = allocated((Path(folder) / a["file"]).read_bytes())
                arguments.append(placed[a["file"]] + a["offset"])
            else:
                arguments.append(a)
        getattr(kernels, call["name"])(0, 0, *arguments)
    print(len(calls), "calls")


def allocated(content: bytes) -> int:
    """The address of a copy, with nothing before or behind it."""
    address = LIBC.malloc(len(content))
    ctypes.memmove(address, content, len(content))
    return address


if __name__ == "__main__":
    main(*sys.argv[1:])
