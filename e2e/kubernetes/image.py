#!/usr/bin/env python3
"""Writes an image of one layer as `docker save` does: image.py NAME OUT.tar ROOTFS PATH [ENTRYPOINT...] -- [COMMAND...]"""

import hashlib
import io
import json
import platform
import sys
import tarfile

name, out, rootfs, path, *command = sys.argv[1:]
at = command.index("--")
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    tar.add(rootfs, arcname=".")
layer = layer.getvalue()
config = json.dumps(
    {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Env": [f"PATH={path}"], "Entrypoint": command[:at], "Cmd": command[at + 1 :]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
files = {config_name: config, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
with tarfile.open(out, "w") as tar:
    for file, content in files.items():
        info = tarfile.TarInfo(file)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
