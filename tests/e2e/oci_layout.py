"""OCI image layouts for tests, of programs of this machine with the libraries that they need."""
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile


def libraries(program):
    """What the loader finds for it, the loader itself included."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", out))


def static_busybox():
    path = shutil.which("busybox")
    done = subprocess.run(["ldd", path], capture_output=True, check=False) if path else None
    return path if done and done.returncode else None


DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
BUSYBOX = static_busybox()


class Program:
    """A file of this machine."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()


def tar_of(*entries):
    """A tar of (name, what, fields of TarInfo) in order; |what|: the text of a file, a Program, or a type of tarfile."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, what, *more in entries:
            info = tarfile.TarInfo(name)
            content = what.encode() if isinstance(what, str) else getattr(what, "data", b"")
            info.type = what if isinstance(what, bytes) else tarfile.REGTYPE
            info.size, info.mode = len(content), 0o755 if info.type == tarfile.DIRTYPE else 0o644
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def layer(programs, texts):
    """A tar of |programs|, {path in the image: file}, with their libraries, and |texts|."""
    files = dict(programs)
    for source in programs.values():
        files.update({lib: lib for lib in libraries(source)})
    data = io.BytesIO()

    def for_all(info):
        info.mode = 0o755
        return info

    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, source in sorted(files.items()):
            tar.add(os.path.realpath(source), path.lstrip("/"), filter=for_all)
        for path, text in texts.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(text), 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
        for path in ("tmp", "work", "var"):
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
    return data.getvalue()


class Layout:
    """What is written into |folder| piece by piece."""

    def __init__(self, folder):
        self.folder = folder
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def write(self, name, value):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f)

    def blob(self, data, **more):
        """Its descriptor."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        os.makedirs(os.path.join(self.folder, "blobs", "sha256"), exist_ok=True)
        with open(os.path.join(self.folder, "blobs", "sha256", digest), "wb") as f:
            f.write(data)
        return {"digest": "sha256:" + digest, "size": len(data), **more}

    def image(self, tars, config, architecture=None, **more):
        """The descriptor of its manifest."""
        facts = {"config": config, **({"os": "linux", "architecture": architecture} if architecture else {})}
        return self.blob({"schemaVersion": 2, "config": self.blob(facts), "layers": [self.blob(t) for t in tars]}, **more)

    def index(self, *manifests):
        self.write("index.json", {"schemaVersion": 2, "manifests": manifests})


def write_layout(folder, tar, config):
    layout = Layout(folder)
    layout.index(layout.image([tar], config))
