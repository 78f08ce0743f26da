from pathlib import Path

import pytest

from parfocal.distribute.mounts import mount_of, parse_mounts

TABLE = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /home rw,relatime shared:2 master:3 - nfs4 filer:/export/home rw,vers=4.2
31 30 254:1 / /home/local rw - xfs /dev/vdb rw
32 22 0:40 / /mnt/my\040slides rw - cifs //server/my\040slides rw
33 22 0:41 / /scratch rw shared:9 - lustre 10.0.0.1@o2ib:/work rw
34 22 0:42 / /s3 rw - fuse.s3fs s3fs rw,user_id=0
35 22 0:43 / /merged rw - fuse.mergerfs a:b rw
36 22 0:44 / /data rw - ext4 /dev/vdc rw
37 36 0:45 / /data rw - nfs filer:/data rw
38 22 0:46 / /run/user/1/doc rw - fuse portal rw
a line that is cut
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/somewhere/file", "ext4", False),
        ("/home", "nfs4", True),
        ("/home/user/cache", "nfs4", True),
        ("/home/local/cache", "xfs", False),
        ("/homes/user", "ext4", False),
        ("/mnt/my slides/a", "cifs", True),
        ("/scratch/x", "lustre", True),
        ("/s3/x", "fuse.s3fs", True),
        ("/merged/x", "fuse.mergerfs", False),
        ("/data/x", "nfs", True),  # mounted over another disk
        ("/run/user/1/doc/x", "fuse", True),
    ],
)
def test_the_file_system_of_a_path_is_found(path: str, kind: str, network: bool):
    mount = mount_of(Path(path), parse_mounts(TABLE))
    assert (mount.kind, mount.is_network) == (kind, network)


def test_the_source_is_readable():
    mounts = {mount.kind: mount.source for mount in parse_mounts(TABLE)}
    assert mounts["cifs"] == "//server/my slides"
    assert mounts["nfs4"] == "filer:/export/home"


def test_links_are_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to("/home/user")
    assert mount_of(tmp_path / "link" / "cache", parse_mounts(TABLE)).kind == "nfs4"


def test_an_empty_table_says_nothing():
    assert mount_of(Path("/x"), []) is None
