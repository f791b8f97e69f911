#!/usr/bin/env python3
"""`make release`: what a release holds, in dist/release, and the same bytes from the same sources.

For each build its file, an SBOM (CycloneDX) and an OCI image layout, with the digest to pull it by:

- plugin.tar: /plugin.wasm in its one layer, as Istio and Envoy Gateway expect it.
- module.tar: /libenvoy_healthz.so for x86-64 and arm64, and the manifest.yaml of built-on-envoy, for a
  Kubernetes image volume or `COPY --from`.
- healthz-doctor for x86-64 and arm64, static, without an image.
- app.tar: the demo's backend for docker-compose.yml, which `docker load` takes as well.

SHA256SUMS has them all.
"""

import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
OUT = DIST / "release"
IMAGE = "application/vnd.oci.image."
# Rust's name of a machine, and that of images.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def tar(files, mode=0o644):
    """A tar of these files, without times or owners of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, 0
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


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Layout:
    """An OCI image layout. Each blob that is added gives its descriptor."""

    def __init__(self, version):
        self.blobs = {}
        self.version = version

    def blob(self, kind, data):
        self.blobs[path(digest(data))] = data
        return {"mediaType": IMAGE + kind, "digest": digest(data), "size": len(data)}

    def image(self, files, machine, config=None, mode=0o644):
        """An image of one layer, with these files."""
        layer = tar(files, mode)
        config = {**machine, "config": config or {}, "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE + "manifest.v1+json",
            "config": self.blob("config.v1+json", as_json(config)),
            "layers": [self.blob("layer.v1.tar+gzip", gzip(layer))],
            "annotations": {
                "org.opencontainers.image.version": self.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        }
        return self.blob("manifest.v1+json", as_json(manifest))

    def index(self, images):
        """One image for several machines."""
        return self.blob("index.v1+json", as_json(index(images)))

    def archive(self, entry, more=None):
        """The layout's tar, whose one image this is."""
        entry = {**entry, "annotations": {"org.opencontainers.image.ref.name": self.version}}
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": as_json(index([entry])), **(more or {})}
        return tar({**files, **dict(sorted(self.blobs.items()))})


def index(images):
    return {"schemaVersion": 2, "mediaType": IMAGE + "index.v1+json", "manifests": images}


def path(found):
    return "blobs/" + found.replace(":", "/")


def plugin(wasm, version):
    layout = Layout(version)
    entry = layout.image({"plugin.wasm": wasm}, {"architecture": "wasm", "os": "wasip1"})
    return layout.archive(entry), entry["digest"]


def module(files, version):
    """The module by machine."""
    layout = Layout(version)
    images = []
    for machine, data in files.items():
        machine = {"architecture": MACHINES[machine], "os": "linux"}
        image = layout.image({"libenvoy_healthz.so": data, "manifest.yaml": built_on_envoy(version)}, machine)
        images.append({**image, "platform": machine})
    entry = layout.index(images)
    return layout.archive(entry), entry["digest"]


def built_on_envoy(version):
    """What github.com/tetratelabs/built-on-envoy wants beside a module. JSON is YAML."""
    about = "Answers /healthz in Envoy from what Envoy knows of its clusters' health"
    manifest = {
        "name": "envoy_healthz",
        "version": version,
        "minEnvoyVersion": "1.38.0",
        "type": "rust",
        "filterType": ["http", "network"],
        "categories": ["Network"],
        "tags": ["health-check", "grpc"],
        "author": "envoy-healthz",
        "license": "Apache-2.0",
        "description": about,
        "longDescription": about + ", for load balancers whose health checks speak only HTTP.",
        "examples": [],
    }
    return (json.dumps(manifest, indent=1) + "\n").encode()


def app(server, version):
    """As OCI and as `docker save` writes it: older engines load nothing else."""
    layout = Layout(version)
    config = {"User": "65532:65532", "Entrypoint": ["/echo-server"], "Cmd": ["--listen", "0.0.0.0:9000"]}
    machine = {"architecture": MACHINES[platform.machine()], "os": "linux"}
    entry = layout.image({"echo-server": server}, machine, {**config, "ExposedPorts": {"9000/tcp": {}}}, mode=0o755)
    manifest = json.loads(layout.blobs[path(entry["digest"])])
    saved = {
        "Config": path(manifest["config"]["digest"]),
        "RepoTags": [f"envoy-healthz/echo-server:{version}"],
        "Layers": [path(layer["digest"]) for layer in manifest["layers"]],
    }
    return layout.archive(entry, {"manifest.json": as_json([saved])}), entry["digest"]


def sboms():
    """CycloneDX by cargo-cyclonedx, less what differs from run to run and from folder to folder. It writes
    beside each Cargo.toml: into a copy, then."""
    crates = {
        "envoy_healthz": (".", "envoy-healthz", "wasm32-wasip1"),
        "libenvoy_healthz": ("dynamic-module", "envoy-healthz-module", "x86_64-unknown-linux-gnu"),
        "healthz-doctor": ("doctor", "healthz-doctor", "x86_64-unknown-linux-musl"),
        "echo-server": ("e2e/echo-server", "echo-server", "x86_64-unknown-linux-musl"),
    }
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "sources"
        built = shutil.ignore_patterns("target", "dist", "book", ".tools", ".git")
        shutil.copytree(ROOT, copy, ignore=built)
        return {f"{name}.cdx.json": sbom(copy, *crate) for name, crate in crates.items()}


def sbom(copy, crate, name, target):
    command = ["cargo", "cyclonedx", "--quiet", "--format", "json", "--target", target]
    subprocess.run(command, cwd=copy, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    text = (copy / crate / f"{name}.cdx.json").read_text()
    document = json.loads(text.replace(str(copy), "").replace(str(copy).replace("/", "%2F"), ""))
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def main(version):
    wasm = (DIST / "envoy_healthz.wasm").read_bytes()
    # The one of another machine than this has its name in the file's.
    suffix = {machine: "" if machine == platform.machine() else f"-{machine}" for machine in MACHINES}
    modules = {machine: (DIST / f"libenvoy_healthz{suffix[machine]}.so").read_bytes() for machine in MACHINES}
    doctors = {machine: (DIST / f"healthz-doctor{suffix[machine]}").read_bytes() for machine in MACHINES}
    images = {
        "plugin": plugin(wasm, version),
        "module": module(modules, version),
        "app": app((DIST / "echo-server").read_bytes(), version),
    }
    files = {"envoy_healthz.wasm": wasm, **sboms()}
    files |= {f"libenvoy_healthz-{machine}.so": data for machine, data in modules.items()}
    files |= {f"healthz-doctor-{machine}": data for machine, data in doctors.items()}
    for name, (archive, found) in images.items():
        files |= {f"{name}.tar": archive, f"{name}.digest": f"{found}\n".encode()}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        (OUT / name).write_bytes(data)
    print(sums, end="")


if __name__ == "__main__":
    main(sys.argv[1])
