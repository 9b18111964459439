#!/usr/bin/env python3
"""fast image add: what becomes of the layers of an OCI image layout, of honest ones and of those that try to write
elsewhere, to take the machine's rights or its disk."""
import gzip
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest

import node
from oci_layout import DIR, HARD, LINK, Layout, tar_of

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
ROOT = os.geteuid() == 0
CONFIG = {"Entrypoint": ["/bin/true"]}


class ImageTest(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="fast-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.victim = os.path.join(self.top, "victim")
        with open(self.victim, "w", encoding="ascii") as f:
            f.write("mine")
        self.outside = os.path.join(self.top, "outside")
        os.mkdir(self.outside)
        self.fresh()

    def fresh(self):
        self.layout = Layout(tempfile.mkdtemp(dir=self.top))
        self.root = os.path.join(self.top, "state", "images", "i.root")

    def run_fast(self, *args, name="i"):
        return subprocess.run([FAST, "image", "--state-dir", os.path.join(self.top, "state"), *args], text=True,
                              capture_output=True, check=False, timeout=120)

    def add(self, *tars, config=None, name="i"):
        if tars:
            self.layout.index(self.layout.image(tars, config or CONFIG))
        self.run_fast("rm", name)
        done = self.run_fast("add", name, self.layout.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(self.top, "state", "images", name + ".json"), encoding="utf-8") as f:
            return json.load(f)

    def refused(self, *tars, config=None, why=""):
        if tars:
            self.layout.index(self.layout.image(tars, config or CONFIG))
        done = self.run_fast("add", "i", self.layout.folder)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(why, done.stderr)
        self.nothing_is_left()
        return done.stderr

    def nothing_is_left(self):
        self.assertEqual(os.listdir(os.path.join(self.top, "state", "images")), [])
        self.nothing_is_touched()

    def nothing_is_touched(self):
        with open(self.victim, encoding="ascii") as f:
            self.assertEqual(f.read(), "mine")
        self.assertEqual(os.listdir(self.outside), [])

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as f:
            return f.read()

    def names(self, path=""):
        return sorted(os.listdir(os.path.join(self.root, path)))

    def mode(self, path):
        return os.lstat(os.path.join(self.root, path)).st_mode & 0o7777

    # ---- layers ----

    def test_marks(self):
        below = tar_of(("a", "1"), ("gone", "1"), ("d", DIR), ("d/x", "1"), ("d/y", "1"), ("tree", DIR), ("tree/t", "1"),
                       ("again", "1"), ("late", DIR), ("late/old", "1"))
        above = tar_of((".wh.gone", ""), ("d", DIR), ("d/.wh..wh..opq", ""), ("d/z", "2"), (".wh.tree", ""),
                       ("again", "2"), (".wh.again", ""),  # the mark is of what was below
                       ("late", DIR), ("late/new", "2"), ("late/.wh..wh..opq", ""), (".wh.never", ""), (".wh...", ""),
                       (".wh..", ""))
        self.add(below, above)
        self.assertEqual(self.names(), ["a", "again", "d", "late"])
        self.assertEqual((self.names("d"), self.names("late")), (["z"], ["new"]))
        self.assertEqual(self.read("again"), "2")
        self.nothing_is_touched()

    def test_what_is_deep(self):
        deep = "/".join(["d"] * 150)
        folders = [(deep[:2 * i + 1], DIR) for i in range(150)]
        self.add(tar_of(*folders, (deep + "/x", "1")), tar_of(*folders, (deep + "/.wh.x", "")))
        self.assertEqual(self.names(deep), [])
        deep = "/".join(["d"] * 300)
        self.run_fast("rm", "i")
        self.refused(tar_of(*[(deep[:2 * i + 1], DIR) for i in range(300)]), why="more than 200 deep")

    def test_one_thing_in_the_place_of_another(self):
        things = {"file": ("x", "text"), "link": ("x", LINK, {"linkname": self.victim}), "folder": ("x", DIR),
                  "link to a folder": ("x", LINK, {"linkname": self.outside})}
        for below in things:
            for above in things:
                more = [("x/in", "2")] if above == "folder" else []
                self.add(tar_of(things[below], *([("x/old", "1")] if below == "folder" else [])),
                         tar_of(things[above], *more))
                at = os.lstat(os.path.join(self.root, "x")).st_mode
                kind = {"file": stat.S_ISREG, "folder": stat.S_ISDIR}.get(above, stat.S_ISLNK)
                self.assertTrue(kind(at), (below, above))
                if above == "folder":
                    self.assertEqual(self.names("x"), ["in"] if below != "folder" else ["in", "old"])
                self.nothing_is_touched()

    def test_a_layer_twice(self):
        one = tar_of(("d", DIR), ("d/a", "1"), ("d/b", HARD, {"linkname": "d/a"}), ("l", LINK, {"linkname": "d/a"}))
        self.add(one, one)
        self.assertEqual(self.read("d/b"), "1")
        self.assertTrue(os.path.samefile(os.path.join(self.root, "d/a"), os.path.join(self.root, "d/b")))
        self.assertEqual(os.readlink(os.path.join(self.root, "l")), "d/a")

    def test_compressed(self):
        plain = tar_of(("a", "some"))
        packed = [plain, gzip.compress(plain)]
        if shutil.which("zstd"):
            packed.append(subprocess.run(["zstd", "-c"], input=plain, capture_output=True, check=True).stdout)
        for data in packed:
            self.add(data)
            self.assertEqual(self.read("a"), "some")
        self.run_fast("rm", "i")
        self.refused(gzip.compress(plain)[:-20], why="layer 1: tar failed")

    def test_folders_called_dev(self):
        self.add(tar_of(("dev", DIR), ("dev/mine", "1"), ("./dev/too", "1"), ("app", DIR), ("app/dev", DIR),
                        ("app/dev/x", "1")))
        self.assertEqual(self.read("app/dev/x"), "1")  # only /dev is the machine's
        self.assertEqual(self.names("dev"), [])

    # ---- escapes ----

    def test_links_out_of_it(self):
        for name in (self.outside, "../../../outside", "../../../../../../../../../.." + self.outside):
            self.add(tar_of(("d", LINK, {"linkname": name})), tar_of(("d/", DIR), ("d/x", "evil")))
            self.assertEqual(self.read("d/x"), "evil")  # of the image's own folder
            self.nothing_is_touched()
        self.add(tar_of(("f", LINK, {"linkname": self.victim})), tar_of(("f", "evil")))
        self.assertEqual(self.read("f"), "evil")
        self.nothing_is_touched()
        # In one layer: tar makes links to elsewhere last.
        self.layout.index(self.layout.image([tar_of(("d", LINK, {"linkname": self.outside}), ("d/x", "evil"))], CONFIG))
        self.run_fast("rm", "i")
        self.run_fast("add", "i", self.layout.folder)
        self.nothing_is_touched()

    def test_names_out_of_it(self):
        self.refused(tar_of(("../../../outside/x", "evil")), why="tar failed")
        self.add(tar_of((self.victim, "evil"), ("new/folder/x", "1")))  # from its own root on
        self.assertEqual(self.read(self.victim.lstrip("/")), "evil")
        self.nothing_is_touched()
        self.run_fast("rm", "i")
        for target in (self.victim, "../../../victim"):
            self.refused(tar_of(("f", HARD, {"linkname": target})), why="tar failed")
        self.refused(tar_of(("v", LINK, {"linkname": self.victim}), ("f", HARD, {"linkname": "v"}), ("f", "evil"),
                            ("missing", HARD, {"linkname": "none"})), why="tar failed")

    def test_marks_out_of_it(self):
        self.add(tar_of(("d", LINK, {"linkname": self.top})), tar_of(("d", DIR), ("d/.wh.victim", "")))
        self.nothing_is_touched()
        self.add(tar_of(("d", LINK, {"linkname": self.top})), tar_of(("d", DIR), ("d/.wh..wh..opq", "")))
        self.nothing_is_touched()

    # ---- rights ----

    def test_devices(self):
        disk = {"devmajor": 8, "devminor": 0, "mode": 0o666}
        for kind in (tarfile.BLKTYPE, tarfile.CHRTYPE):
            self.refused(tar_of(("etc", DIR), ("etc/disk", kind, disk)), why="a device outside /dev, etc/disk")
        self.add(tar_of(("a", "1"), ("dev/sda", tarfile.BLKTYPE, disk)))
        self.assertFalse(os.path.exists(os.path.join(self.root, "dev/sda")))

    def test_rights_of_others(self):
        self.add(tar_of(("suid", "1", {"mode": 0o6755, "uid": 0}), ("d", DIR, {"mode": 0o2777}),
                        ("d/suid", "1", {"mode": 0o4711, "uid": 1000}), ("d/t", DIR, {"mode": 0o1777})))
        self.assertEqual((self.mode("suid"), self.mode("d/suid") & 0o6000, self.mode("d"), self.mode("d/t")),
                         (0o755, 0, 0o777, 0o1777))
        if ROOT:
            for path in ("suid", "d/suid", "d"):
                self.assertEqual(os.stat(os.path.join(self.root, path)).st_uid, 0)

    @unittest.skipIf(not ROOT, "files belong to the platform's user, who can read all of them")
    def test_its_user_can_read(self):
        passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbare::1000:1001:::\n"
        tar = tar_of(("etc", DIR), ("etc/passwd", passwd), ("etc/group", "web:x:1002:\n"),
                     ("etc/shadow", "s", {"mode": 0o600}), ("home", DIR, {"uid": 1000, "mode": 0o700}),
                     ("home/key", "k", {"uid": 1000, "mode": 0o400}), ("home/run", "k", {"uid": 1000, "mode": 0o700}),
                     ("group", "g", {"gid": 1001, "mode": 0o640}), ("other", "o", {"gid": 1002, "mode": 0o640}))

        def closed(user):
            image = self.add(tar, config={**CONFIG, "User": user})
            self.assertEqual(image.get("user", ""), user)
            return [p for p in ("etc/shadow", "home", "home/key", "home/run", "group", "other") if not self.mode(p) & 4]

        for user in ("app", "bare"):  # without a password there is nothing between the colons
            self.assertEqual(closed(user), ["etc/shadow", "other"])
        self.assertEqual(self.mode("home/run") & 0o5, 0o5)
        self.assertEqual(closed("1000"), ["etc/shadow", "group", "other"])
        self.assertEqual(closed("app:web"), ["etc/shadow", "group"])
        self.assertEqual(closed("1000:1002"), ["etc/shadow", "group"])
        for user in ("", "root", "0"):
            self.assertEqual(closed(user), [])
        self.run_fast("rm", "i")
        self.refused(tar, config={**CONFIG, "User": "nobody"}, why='its user is "nobody", whom its /etc/passwd')
        self.refused(tar, config={**CONFIG, "User": "app:none"}, why='its user is "none", whom its /etc/group')
        self.refused(tar, config={**CONFIG, "User": "999999999"}, why="too large")
        with open(os.path.join(self.top, "passwd"), "w", encoding="ascii") as f:
            f.write("spy:x:7:7::/:/bin/sh\n")
        self.refused(tar_of(("etc", LINK, {"linkname": self.top})), config={**CONFIG, "User": "spy"}, why="/etc/passwd")

    @unittest.skipIf(not ROOT, "files belong to the platform's user, who can read all of them")
    def test_a_narrow_umask(self):
        """Folders that no layer has an entry for are open, whatever who adds the image makes for himself."""
        was = os.umask(0o077)
        self.addCleanup(os.umask, was)
        self.add(tar_of(("deep/er/file", "x")), config={**CONFIG, "User": "1000", "WorkingDir": "/work/here"})
        self.assertEqual([self.mode(p) & 5 for p in ("deep", "deep/er", "work", "work/here")], [5] * 4)

    # ---- what it takes ----

    def test_bombs(self):
        huge = tarfile.TarInfo("huge")
        huge.size = 1 << 60
        self.refused(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20),
                     why="layer 1: its files are too large: they would take more than nine tenths of what is free")
        # Many of them are taken while there is room.
        self.add(tar_of(*[(f"f{i}", "") for i in range(100000)]))
        self.assertEqual(len(self.names()), 100000)

    def test_a_header_without_end(self):
        """Whoever unpacks it would take as much memory as it says."""
        info = tarfile.TarInfo("x")
        info.type, info.size = b"x", 8 << 30
        said = self.refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), why="layer 1: tar failed")
        self.assertIn("memory exhausted", said)

    # ---- layouts ----

    def test_digests(self):
        def spoil(descriptor):
            path = os.path.join(self.layout.folder, "blobs", descriptor["digest"].replace(":", "/"))
            with open(path, "ab") as f:
                f.write(b" ")

        def layout():
            self.fresh()
            layer, config = self.layout.blob(tar_of(("a", "1"))), self.layout.blob({"config": CONFIG})
            manifest = self.layout.blob({"schemaVersion": 2, "config": config, "layers": [layer]})
            self.layout.index(manifest)
            return layer, config, manifest

        for which, place in ((0, "layer 1: "), (1, ""), (2, "")):
            spoiled = layout()[which]
            spoil(spoiled)
            said = self.refused(why="is something else: its digest is ")
            self.assertIn(place + "blob " + spoiled["digest"], said)
        for bad in ("sha256:../../../../etc/passwd", "md5:" + "0" * 32, "", "sha256:", "../x:" + "0" * 64):
            layout()
            self.layout.index({"digest": bad, "size": 1})
            self.refused(why="neither sha256 nor sha512")
        layout()
        self.layout.index({"digest": "sha256:" + "0" * 64, "size": 1})
        self.refused(why="No such file")

    def test_platforms(self):
        machine = os.uname().machine
        own = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
        other = "arm64" if own == "amd64" else "amd64"

        def of(architecture, system="linux", text="", **more):
            return self.layout.image([tar_of(("which", architecture + text))], CONFIG,
                                     platform={"os": system, "architecture": architecture}, **more)

        self.layout.index(of(other), of(own), of("unknown", "unknown"))
        self.add()
        self.assertEqual(self.read("which"), own)
        # As docker's buildx writes it: one entry, an index of its own.
        self.layout.index(self.layout.blob({"schemaVersion": 2, "manifests": [of(other), of(own)]}))
        self.add()
        self.assertEqual(self.read("which"), own)
        self.run_fast("rm", "i")
        self.layout.index(of(other), of(own, "windows"))
        self.refused(why=f"nothing for linux/{own}, but for: linux/{other}, windows/{own}")
        self.layout.index(self.layout.image([tar_of(("a", "1"))], CONFIG, architecture=other))
        self.refused(why=f"it is for linux/{other}")
        self.layout.index()
        self.refused(why="no platform at all")

        def tagged(tag):
            return of(own, text=tag, annotations={"org.opencontainers.image.ref.name": tag})

        self.layout.index(tagged("1.0"), tagged("2.0"))
        self.refused(why="several images, 1.0, 2.0: say which as NAME:TAG")
        self.add(name="i:2.0")
        with open(os.path.join(self.top, "state", "images", "i:2.0.root", "which"), encoding="ascii") as f:
            self.assertEqual(f.read(), own + "2.0")

    def test_indexes_without_end(self):
        descriptor = self.layout.image([tar_of(("a", "1"))], CONFIG)
        for _ in range(6):
            descriptor = self.layout.blob({"schemaVersion": 2, "manifests": [descriptor]})
        self.layout.index(descriptor)
        self.refused(why="indexes of indexes")

    def test_what_is_no_image(self):
        for manifest in ({}, [], {"layers": "x"}, {"layers": [], "config": {}}):
            self.fresh()
            self.layout.index(self.layout.blob(manifest))
            self.refused()
        self.fresh()
        self.refused(tar_of(("a", "1")), config={"Env": ["A=b"]}, why="no entry point")
        self.refused(tar_of(("a", "1")), config={**CONFIG, "WorkingDir": "here"}, why='WorkingDir is "here"')

    def test_configuration(self):
        image = self.add(tar_of(("l", LINK, {"linkname": self.outside})), config={
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["a b", ""], "Env": ["A=1", "B=", "C=x=y", "none", "=v"],
            "WorkingDir": "/l/work"})
        self.assertEqual(image["argv"], ["/bin/sh", "-c", "a b", ""])
        self.assertEqual(image["env"], {"A": "1", "B": "", "C": "x=y"})
        self.nothing_is_touched()
        self.add(tar_of(("a", "1")), config={**CONFIG, "WorkingDir": "/srv/app"})
        self.assertEqual(self.names("srv"), ["app"])

    def test_cut_off(self):
        """What is left of an attempt that was killed is not in the next one."""
        os.makedirs(os.path.join(self.root, "old"))
        os.makedirs(self.root + ".layer/old")
        self.add(tar_of(("a", "1")))
        self.assertEqual(self.names(), ["a"])


if __name__ == "__main__":
    unittest.main()
