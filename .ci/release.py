#!/usr/bin/env python3
"""`make release`: what a release holds, in dist/release, and the same bytes from the same sources.

The wasm; an SBOM (CycloneDX); plugin.tar, an OCI image layout with /plugin.wasm in its one layer, as
Istio and Envoy Gateway expect it (and `COPY --from` or an image volume for anything else); SHA256SUMS.
"""

import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "dist/release"
IMAGE = "application/vnd.oci.image."


def tar(files):
    """A tar of these files, without times, owners or modes of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def gzip(data):
    """A gzip that stores: no version of zlib makes other bytes of it. Istio takes no plain tar."""
    blocks = [data[start : start + 65535] for start in range(0, len(data), 65535)]
    deflated = b"".join(
        bytes([block is blocks[-1]]) + len(block).to_bytes(2, "little") + (len(block) ^ 0xFFFF).to_bytes(2, "little") + block
        for block in blocks
    )
    sizes = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated + sizes


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(wasm, version):
    """The layout's tar and the manifest's digest."""
    blobs = {}

    def blob(kind, data):
        blobs["blobs/sha256/" + digest(data).removeprefix("sha256:")] = data
        return {"mediaType": IMAGE + kind, "digest": digest(data), "size": len(data)}

    def as_json(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    layer = tar({"plugin.wasm": wasm})
    config = {
        "architecture": "wasm",
        "os": "wasip1",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE + "manifest.v1+json",
        "config": blob("config.v1+json", as_json(config)),
        "layers": [blob("layer.v1.tar+gzip", gzip(layer))],
        "annotations": {"org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "Apache-2.0"},
    }
    entry = blob("manifest.v1+json", as_json(manifest))
    found = entry["digest"]
    entry["annotations"] = {"org.opencontainers.image.ref.name": version}
    index = {"schemaVersion": 2, "mediaType": IMAGE + "index.v1+json", "manifests": [entry]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": as_json(index)}
    return tar({**files, **dict(sorted(blobs.items()))}), found


def sbom():
    """CycloneDX by cargo-cyclonedx, less what differs from run to run and from folder to folder."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, names.split("\0")):
            target = pathlib.Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                shutil.copyfile(ROOT / name, target)
        command = ["cargo", "cyclonedx", "--quiet", "--format", "json", "--target", "wasm32-wasip1"]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
        subprocess.run(command, cwd=folder, check=True, env=environment)
        text = (pathlib.Path(folder) / "envoy-healthz.cdx.json").read_text()
        text = text.replace(folder, "").replace(folder.replace("/", "%2F"), "")
    document = json.loads(text)
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def main(version):
    OUT.mkdir(parents=True, exist_ok=True)
    wasm = (ROOT / "dist/envoy_healthz.wasm").read_bytes()
    layout, found = image(wasm, version)
    files = {
        "envoy_healthz.wasm": wasm,
        "envoy_healthz.cdx.json": sbom(),
        "plugin.tar": layout,
        "plugin.digest": f"{found}\n".encode(),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        (OUT / name).write_bytes(data)
    print(sums, end="")
    print(f"image: {found}")


if __name__ == "__main__":
    main(sys.argv[1])
