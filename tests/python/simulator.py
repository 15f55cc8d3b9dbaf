"""Our TUF client against the repository simulator of python-tuf's own tests.

RELEASE is the program, SIMULATOR the unpacked source distribution of tuf.
"""

import datetime
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

sys.path.insert(0, os.environ["SIMULATOR"])

from securesystemslib.signer import CryptoSigner  # noqa: E402
from tests.repository_simulator import RepositorySimulator  # noqa: E402
from tuf.api.exceptions import DownloadHTTPError  # noqa: E402
from tuf.api.metadata import DelegatedRole, Root, Snapshot, Targets, Timestamp  # noqa: E402


class Lab:
    """A simulated repository behind a web server, and our client before it."""

    def __init__(self, folder):
        self.sim = RepositorySimulator()
        self.folder = folder
        self.spoil = {}
        lab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    body = b"".join(lab.sim._fetch(self.path))
                except (DownloadHTTPError, ValueError, KeyError):
                    self.send_error(404)
                    return
                for word, change in lab.spoil.items():
                    if word in self.path:
                        body = change(body)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        (folder / "root.json").write_bytes(self.sim.signed_roots[0])
        self.run("init", str(folder / "root.json")).check_returncode()

    def run(self, *words, options=()):
        command = [os.environ["RELEASE"], "util", "tuf-client", "--metadata-dir", str(self.folder / "metadata")]
        return subprocess.run([*command, *options, *words], capture_output=True, text=True, timeout=60)

    def refresh(self):
        return self.run("refresh", options=["--metadata-url", f"{self.url}/metadata"]).returncode

    def download(self, *names):
        (self.folder / "targets").mkdir(exist_ok=True)
        options = ["--metadata-url", f"{self.url}/metadata", "--target-base-url", f"{self.url}/targets"]
        options += ["--target-dir", str(self.folder / "targets")]
        for name in names:
            options += ["--target-name", name]
        return self.run("download", options=options).returncode

    def trusted(self, role):
        path = self.folder / "metadata" / f"{role}.json"
        return path.read_bytes() if path.exists() else None

    def downloaded(self):
        return [path.read_bytes() for path in (self.folder / "targets").iterdir()]


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.server.shutdown()


def test_refresh_keeps_what_was_served_byte_for_byte(lab):
    assert lab.refresh() == 0
    assert lab.trusted(Root.type) == lab.sim.signed_roots[0]
    assert lab.trusted(Timestamp.type) == lab.sim.fetch_metadata(Timestamp.type)
    assert lab.trusted(Snapshot.type) == lab.sim.fetch_metadata(Snapshot.type)
    assert lab.trusted(Targets.type) == lab.sim.fetch_metadata(Targets.type)


@pytest.mark.parametrize("role", [Root.type, Timestamp.type, Snapshot.type, Targets.type])
def test_rotated_keys_are_followed(lab, role):
    assert lab.refresh() == 0
    old = dict(lab.sim.signers[role])
    lab.sim.rotate_keys(role)
    lab.sim.root.version += 1
    if role == Root.type:
        # Signed by the old and the new keys.
        new = lab.sim.signers[role]
        lab.sim.signers[role] = {**old, **new}
        lab.sim.publish_root()
        lab.sim.signers[role] = new
    else:
        lab.sim.publish_root()
    lab.sim.update_snapshot()
    assert lab.refresh() == 0
    assert lab.trusted(Root.type) == lab.sim.signed_roots[1]


def test_a_root_without_the_old_keys_is_refused(lab):
    assert lab.refresh() == 0
    lab.sim.rotate_keys(Root.type)
    lab.sim.root.version += 1
    lab.sim.publish_root()
    assert lab.refresh() == 1
    assert lab.trusted(Root.type) == lab.sim.signed_roots[0]


@pytest.mark.parametrize("role", [Timestamp.type, Snapshot.type, Targets.type])
def test_a_thief_without_the_key_is_refused(lab, role):
    lab.sim.signers[role].clear()
    lab.sim.add_signer(role, CryptoSigner.generate_ed25519())
    assert lab.refresh() == 1


@pytest.mark.parametrize("role", [Timestamp.type, Snapshot.type, Targets.type])
def test_a_threshold_is_needed(lab, role):
    lab.sim.root.roles[role].threshold = 2
    second = CryptoSigner.generate_ed25519()
    lab.sim.root.add_key(second.public_key, role)
    lab.sim.root.version += 1
    lab.sim.publish_root()
    assert lab.refresh() == 1
    lab.sim.add_signer(role, second)
    assert lab.refresh() == 0


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_expired_metadata_is_refused(lab, role):
    past = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(days=1)
    getattr(lab.sim, role).expires = past
    if role == "root":
        lab.sim.root.version += 1
        lab.sim.publish_root()
    assert lab.refresh() == 1


def test_rollback_is_refused(lab):
    lab.sim.targets.version = 3
    lab.sim.update_snapshot()
    lab.sim.update_snapshot()
    assert lab.refresh() == 0
    before = {role: lab.trusted(role) for role in (Timestamp.type, Snapshot.type, Targets.type)}
    lab.sim.timestamp.version -= 1
    assert lab.refresh() == 1
    lab.sim.timestamp.version += 2
    lab.sim.snapshot.version -= 1
    lab.sim.timestamp.snapshot_meta.version -= 1
    assert lab.refresh() == 1
    lab.sim.snapshot.version += 2
    lab.sim.targets.version = 2
    lab.sim.update_snapshot()
    assert lab.refresh() == 1
    assert lab.trusted(Targets.type) == before[Targets.type]


def test_recovery_after_a_stolen_online_key(lab):
    lab.sim.timestamp.version = 99999
    assert lab.refresh() == 0
    lab.sim.rotate_keys(Timestamp.type)
    lab.sim.root.version += 1
    lab.sim.publish_root()
    lab.sim.timestamp.version = 1
    assert lab.refresh() == 0


@pytest.mark.parametrize("word", ["timestamp", "snapshot", "targets.json"])
def test_truncated_and_endless_metadata_is_refused(lab, word):
    lab.spoil = {word: lambda body: body[:-2]}
    assert lab.refresh() == 1
    lab.spoil = {word: lambda body: body + b" " * 6_000_000}
    assert lab.refresh() == 1
    lab.spoil = {}
    assert lab.refresh() == 0


def test_hashes_in_snapshot_and_timestamp_count(lab):
    lab.sim.compute_metafile_hashes_length = True
    lab.sim.update_snapshot()
    assert lab.refresh() == 0
    lab.sim.update_snapshot()
    lab.spoil = {"targets.json": lambda body: body + b"\n"}
    lab.sim.targets.version += 1
    lab.sim.update_snapshot()
    assert lab.refresh() == 1


def test_targets_are_downloaded_and_checked(lab):
    lab.sim.add_target(Targets.type, b"content", "folder/file")
    lab.sim.targets.version += 1
    lab.sim.update_snapshot()
    lab.spoil = {"/targets/": lambda body: body[:-1] + b"!"}
    assert lab.download("folder/file") == 1
    lab.spoil = {"/targets/": lambda body: body + b"!"}
    assert lab.download("folder/file") == 1
    assert lab.downloaded() == []
    lab.spoil = {}
    assert lab.download("folder/file") == 0
    assert lab.downloaded() == [b"content"]
    lab.sim.fetch_tracker.targets.clear()
    assert lab.download("folder/file") == 0
    assert lab.sim.fetch_tracker.targets == []
    assert lab.download("missing") == 1


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [("kestrel/*/*", "kestrel/1.0/file", True), ("kestrel/*", "kestrel/1.0/file", False), ("heron/*/*", "kestrel/1.0/file", False)],
)
def test_delegations_match_segment_by_segment(lab, pattern, path, found):
    role = DelegatedRole("product", [], 1, True, [pattern])
    lab.sim.add_delegation(Targets.type, role, Targets(expires=lab.sim.safe_expiry))
    lab.sim.add_target("product", b"content", path)
    lab.sim.update_snapshot()
    assert (lab.download(path) == 0) == found


def test_a_delegated_role_needs_its_own_keys(lab):
    role = DelegatedRole("product", [], 1, True, ["product/*/*"])
    lab.sim.add_delegation(Targets.type, role, Targets(expires=lab.sim.safe_expiry))
    lab.sim.add_target("product", b"content", "product/1.0/file")
    lab.sim.update_snapshot()
    lab.sim.signers["product"].clear()
    lab.sim.add_signer("product", CryptoSigner.generate_ed25519())
    assert lab.download("product/1.0/file") == 1
    assert lab.downloaded() == []
