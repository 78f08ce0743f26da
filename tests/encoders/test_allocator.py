import platform
import subprocess
import sys

import pytest

from parfocal.encoders.allocator import keep_freed_memory

FAULTS = """
import resource, torch
from parfocal.encoders.allocator import keep_freed_memory
if {tuned}:
    assert keep_freed_memory()
for _ in range(20):
    torch.zeros(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again_without_page_faults():
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(tuned=tuned)]))
        for tuned in (False, True)
    )
    assert kept < given_back - 10_000


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
