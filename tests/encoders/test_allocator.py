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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_reused_without_page_faults():
    default, tuned_count = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(tuned=tuned)]))
        for tuned in (False, True)
    )
    assert tuned_count < default - 10_000


def test_other_c_libraries_are_not_changed(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
