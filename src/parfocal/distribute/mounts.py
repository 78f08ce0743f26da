"""Find out which file system a path is on: SQLite databases are safe on local disks only."""

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # Linux only

NETWORK = {
    *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "lustre", "ceph", "beegfs"),
    *("beegfs_nodev", "gpfs", "glusterfs", "afs", "orangefs", "pvfs2", "panfs", "ncpfs", "coda"),
    *("wekafs", "vastnfs", "quobyte", "moosefs", "dvs", "ocfs2", "gfs2"),
}
# In user space, most file systems are those of other machines or of object stores.
LOCAL_FUSE = {
    *("fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.ntfs", "fuse.exfat"),
    *("fuse.gocryptfs", "fuse.encfs", "fuse.bindfs", "fuse.squashfuse", "fuse.lxcfs", "fuseblk"),
}


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Args:
        point: folder where it is mounted.
        kind: its type, such as "ext4" or "nfs4".
        source: what is mounted, such as "server:/export".
    """

    point: Path
    kind: str
    source: str

    @property
    def is_network(self) -> bool:
        """Whether other machines may write to it at the same time."""
        is_fuse = self.kind == "fuse" or self.kind.startswith("fuse.")
        return self.kind in NETWORK or (is_fuse and self.kind not in LOCAL_FUSE)


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts of the text of /proc/self/mountinfo, in its order."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if separator and len(fields) >= 5 and len(types) >= 2:
            mounts.append(Mount(Path(_unescape(fields[4])), types[0], _unescape(types[1])))
    return mounts


def mount_of(path: Path, mounts: list[Mount] | None = None) -> Mount | None:
    """Return the file system that a path is on; None if the system does not tell.

    Args:
        path: a path; if it does not exist, its nearest parent that does counts.
        mounts: all mounts in their order; None for those of this system.
    """
    if mounts is None:
        try:
            mounts = parse_mounts(MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"))
        except OSError:
            return None
    resolved = path.absolute().resolve()
    # Of two mounts at one point, the later one hides the earlier one.
    above = [mount for mount in mounts if resolved.is_relative_to(mount.point)]
    longest = max((len(mount.point.parts) for mount in above), default=0)
    return next((m for m in reversed(above) if len(m.point.parts) == longest), None)


def _unescape(text: str) -> str:
    """Return a text of the mount table, in which spaces and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
